"""Draw inputs, views of them by a saved viewmaker, and what the views change."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import viewaug
from viewaug._files import replacing
from viewaug.commands._arguments import positive, seed
from viewaug.commands._signals import read_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(
        prog="viewaug views", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="file that viewaug.save wrote")
    parser.add_argument(
        "--images", type=Path, required=True, help="folder of inputs: images, .wav or .flac, or .npy arrays"
    )
    parser.add_argument("--out", type=Path, required=True, help="figure to write, such as grid.png or grid.pdf")
    parser.add_argument("--count", type=positive(int), default=8, help="inputs to draw, by the order of their names")
    parser.add_argument("--views", type=positive(int), default=3, help="views of each, by different noise")
    parser.add_argument("--size", type=positive(int), help="side of images, or length of waveforms; None: the smallest")
    parser.add_argument("--amplify", type=positive(float), default=5.0, help="factor of the differences")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise")
    options = parser.parse_args(arguments)
    if not options.out.suffix:
        parser.error(f"argument --out: expected a file name with a suffix, such as grid.png, but got {options.out}")
    try:
        from viewaug.plots import view_grid

        viewmaker = viewaug.load(options.checkpoint).float()
        x = read_signals(options.images, viewmaker, options.count, options.size)
        generator = torch.Generator().manual_seed(options.seed)
        with torch.no_grad():
            views = [viewmaker(x, viewmaker.draw_noise(x, generator)) for _ in range(options.views)]
        figure = view_grid(x, views, amplify=options.amplify, value_range=viewmaker.value_range)
        with replacing(options.out) as temporary:
            figure.savefig(temporary, dpi=130)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug views: {error}\n")
    print(options.out)
