"""Draw inputs, views of them by a saved viewmaker, and what the views change; write views of sounds, to be heard."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import viewaug
from viewaug._files import replacing
from viewaug._sounds import SOUNDS, sample_rate, write_sound
from viewaug.commands._arguments import positive, seed
from viewaug.commands._signals import read_signals, signal_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure, and views of sounds beside it."""
    parser = argparse.ArgumentParser(
        prog="viewaug views", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="file that viewaug.save wrote")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="a file or a folder of inputs: images, .wav, .flac or .ogg, or .npy arrays",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="figure to write, such as grid.png or grid.pdf; of sounds also grid-NAME-view1.wav, ...",
    )
    parser.add_argument("--count", type=positive(int), default=8, help="inputs to draw, by the order of their names")
    parser.add_argument("--views", type=positive(int), default=3, help="views of each, by different noise")
    parser.add_argument("--size", type=positive(int), help="side of images, or length of waveforms; None: the smallest")
    parser.add_argument("--amplify", type=positive(float), default=5.0, help="factor of the differences")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise")
    options = parser.parse_args(arguments)
    if not options.out.suffix:
        parser.error(f"argument --out: expected a file name with a suffix, such as grid.png, but got {options.out}")
    written = [options.out]
    try:
        from viewaug.plots import view_grid

        viewmaker = viewaug.load(options.checkpoint).float()
        files = signal_files(options.images, viewmaker, options.count)
        x = read_signals(files, viewmaker, options.size)
        generator = torch.Generator().manual_seed(options.seed)
        with torch.no_grad():
            views = [viewmaker(x, viewmaker.draw_noise(x, generator)) for _ in range(options.views)]
        sounds = all(file.suffix.lower() in SOUNDS for file in files)
        for i, file in enumerate(files if sounds else ()):
            for k, view in enumerate(views, start=1):
                written.append(options.out.with_name(f"{options.out.stem}-{file.stem}-view{k}.wav"))
                write_sound(written[-1], view[i], sample_rate(file))
        if sounds:
            x, views = spectrogram(x), [spectrogram(view) for view in views]
        value_range = None if sounds else viewmaker.value_range
        figure = view_grid(x, views, amplify=options.amplify, value_range=value_range)
        with replacing(options.out) as temporary:
            figure.savefig(temporary, dpi=130)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug views: {error}\n")
    print(*written, sep="\n")


def spectrogram(x: Tensor) -> Tensor:
    """Return the power of waveforms, ``(B, 1, T)``, in dB, of windows of at most 512 samples, ``(B, 1, F, T')``.

    It is cut off 80 dB below the loudest.
    """
    window = min(512, x.shape[-1])
    spectrum = torch.stft(
        x[:, 0],
        window,
        hop_length=max(1, window // 4),
        window=torch.hann_window(window),
        pad_mode="constant",
        return_complex=True,
    )
    decibels = 10 * spectrum.abs().square().clamp(min=1e-12).log10()
    return decibels.clamp(min=decibels.max().item() - 80)[:, None]
