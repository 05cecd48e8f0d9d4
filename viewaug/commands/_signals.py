"""Read the inputs of a viewmaker from the files of a folder."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from viewaug.adversary import check_values
from viewaug.viewmaker import Viewmaker

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SOUNDS = (".wav", ".flac", ".ogg")
ARRAYS = (".npy",)


def read_signals(folder: Path, viewmaker: Viewmaker, count: int, size: int | None = None) -> Tensor:
    """Read the first files of a folder, in the order of their names, as one batch for a viewmaker.

    Images are read where it takes images, that is with a value range and one or three channels; sounds where it takes
    waveforms of one channel; and NumPy arrays of the shape ``(C, *spatial)``, or without channels if there is one.
    Images are resized, and all signals cropped in the middle, to the size of the smallest.

    Args:
        folder: where the files are.
        viewmaker: what they are for.
        count: how many files to read at most.
        size: side of images, or length of waveforms; by default that of the smallest.

    Raises:
        FileNotFoundError: if there is no such folder, or no file for this viewmaker in it.
        ValueError: if a file cannot be read, or does not fit the viewmaker.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder, but found none at {folder}.")
    readers: dict[str, Callable[[Path, Viewmaker], Tensor]] = dict.fromkeys(ARRAYS, _read_array)
    image = viewmaker.dims == 2 and viewmaker.channels in (1, 3) and viewmaker.value_range is not None
    if image:
        readers |= dict.fromkeys(IMAGES, _read_image)
    if viewmaker.dims == 1 and viewmaker.channels == 1:
        readers |= dict.fromkeys(SOUNDS, _read_sound)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in readers)[:count]
    if not files:
        raise FileNotFoundError(f"Expected files of {', '.join(sorted(readers))} in {folder}, but found none.")
    signals = []
    for file in files:
        try:
            signal = readers[file.suffix.lower()](file, viewmaker)
            check_values(signal, viewmaker)
        except ImportError:
            raise
        except Exception as error:  # broken files make their readers raise all sorts
            raise ValueError(f"{file} cannot be read: {error}") from error
        if signal.ndim == viewmaker.dims:
            signal = signal[None]
        if signal.ndim != viewmaker.dims + 1 or signal.shape[0] != viewmaker.channels:
            raise ValueError(
                f"Expected {viewmaker.channels} channels and {viewmaker.dims} spatial dimensions in {file}, "
                f"but got the shape {tuple(signal.shape)}."
            )
        signals.append(signal)
    if image:
        side = size or min(224, *(min(signal.shape[1:]) for signal in signals))
        signals = [_resize(signal, side) for signal in signals]
    sides = [min(sides) for sides in zip(*(signal.shape[1:] for signal in signals), strict=True)]
    if size and viewmaker.dims == 1:
        sides = [min(size, *sides)]
    return torch.stack([_crop(signal, sides) for signal in signals])


def _read_image(file: Path, viewmaker: Viewmaker) -> Tensor:
    from PIL import Image

    with Image.open(file) as opened:
        # PIL would clip 16 bits instead of scaling them
        image = opened.point(lambda value: value / 256, "L") if opened.mode.startswith("I;16") else opened
        mode = "RGB" if viewmaker.channels == 3 else "L"
        pixels = torch.frombuffer(bytearray(image.convert(mode).tobytes()), dtype=torch.uint8)
        unit = pixels.reshape(image.height, image.width, -1).permute(2, 0, 1) / 255
    low, high = viewmaker.value_range or (0.0, 1.0)
    return low + (high - low) * unit


def _read_sound(file: Path, viewmaker: Viewmaker) -> Tensor:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("Reading sounds needs soundfile: pip install 'viewaug[audio]'") from error
    samples, _ = soundfile.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(samples).mean(1)[None]


def _read_array(file: Path, viewmaker: Viewmaker) -> Tensor:
    import numpy

    array = torch.from_numpy(numpy.load(file, allow_pickle=False))
    if array.is_complex():
        raise ValueError("its values are complex")
    return array.float()


def _resize(image: Tensor, side: int) -> Tensor:
    from kornia.geometry import resize

    if min(image.shape[1:]) == side:
        return image
    return resize(image, side, side="short", antialias=True)


def _crop(signal: Tensor, sides: list[int]) -> Tensor:
    for dim, side in enumerate(sides, start=1):
        signal = signal.narrow(dim, (signal.shape[dim] - side) // 2, side)
    return signal
