"""Read the inputs of a viewmaker from files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from viewaug._sounds import SOUNDS, read_sound
from viewaug.adversary import check_values
from viewaug.viewmaker import Viewmaker

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ARRAYS = (".npy",)


def signal_files(place: Path, viewmaker: Viewmaker, count: int) -> list[Path]:
    """Return a file, or the first files of a folder that a viewmaker can take, in the order of their names.

    Images are taken where it takes images, that is with a value range and one or three channels; sounds where it takes
    waveforms of one channel; and NumPy arrays always.

    Raises:
        FileNotFoundError: if there is no such file or folder, or no file for this viewmaker in it.
    """
    suffixes = _readers(viewmaker)
    if place.is_file() and place.suffix.lower() in suffixes:
        return [place]
    if not place.is_dir():
        raise FileNotFoundError(f"Expected a folder, or a file of {', '.join(sorted(suffixes))}, but got {place}.")
    known = (file for file in place.iterdir() if file.suffix.lower() in suffixes)
    files = sorted(file for file in known if not file.name.startswith("."))[:count]  # macOS leaves ._ beside each
    if not files:
        raise FileNotFoundError(f"Expected files of {', '.join(sorted(suffixes))} in {place}, but found none.")
    return files


def read_signals(files: Sequence[Path], viewmaker: Viewmaker, size: int | None = None) -> Tensor:
    """Read files as one batch for a viewmaker.

    NumPy arrays have the shape ``(C, *spatial)``, or are without channels if there is one. Images are resized, and all
    signals cropped in the middle, to the size of the smallest.

    Args:
        files: what to read, as :func:`signal_files` finds it.
        viewmaker: what it is for.
        size: side of images, or length of waveforms; by default that of the smallest.

    Raises:
        ValueError: if a file cannot be read, or does not fit the viewmaker.
    """
    readers = _readers(viewmaker)
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
    if _takes_images(viewmaker):
        side = size or min(224, *(min(signal.shape[1:]) for signal in signals))
        signals = [_resize(signal, side) for signal in signals]
    sides = [min(sides) for sides in zip(*(signal.shape[1:] for signal in signals), strict=True)]
    if size and viewmaker.dims == 1:
        sides = [min(size, *sides)]
    return torch.stack([_crop(signal, sides) for signal in signals])


def read_inputs(place: Path, viewmaker: Viewmaker, count: int, size: int | None = None) -> Tensor:
    """Read inputs, evenly spread over an array ``x`` as of ``viewaug compare``, or the first files of signals.

    Args:
        place: an .npz file with ``x``, a folder with ``x.npy``, or what :func:`signal_files` takes.
        viewmaker: what they are for.
        count: how many, at most.
        size: as of :func:`read_signals`; of arrays it is their own.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it cannot be read, or does not fit the viewmaker.
    """
    import numpy

    whole = place / "x.npy" if place.is_dir() else place
    if not (whole.is_file() and (place.is_dir() or place.suffix == ".npz")):
        return read_signals(signal_files(place, viewmaker, count), viewmaker, size)
    try:
        opened = numpy.load(whole, mmap_mode="r" if place.is_dir() else None, allow_pickle=False)
        x = opened if place.is_dir() else opened["x"]
        rows = numpy.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)
        inputs = torch.from_numpy(numpy.ascontiguousarray(x[rows])).float()
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{place} cannot be read: {error}") from error
    if inputs.ndim != viewmaker.dims + 2 or inputs.shape[1] != viewmaker.channels or not inputs.numel():
        raise ValueError(
            f"Expected `x` in {place} of {viewmaker.channels} channels and {viewmaker.dims} spatial dimensions, "
            f"but got the shape {tuple(x.shape)}."
        )
    check_values(inputs, viewmaker)
    return inputs


def _readers(viewmaker: Viewmaker) -> dict[str, Callable[[Path, Viewmaker], Tensor]]:
    readers: dict[str, Callable[[Path, Viewmaker], Tensor]] = dict.fromkeys(ARRAYS, _read_array)
    if _takes_images(viewmaker):
        readers |= dict.fromkeys(IMAGES, _read_image)
    if viewmaker.dims == 1 and viewmaker.channels == 1:
        readers |= dict.fromkeys(SOUNDS, _read_sound)
    return readers


def _takes_images(viewmaker: Viewmaker) -> bool:
    return viewmaker.dims == 2 and viewmaker.channels in (1, 3) and viewmaker.value_range is not None


def _read_image(file: Path, viewmaker: Viewmaker) -> Tensor:
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        ImageOps.exif_transpose(opened, in_place=True)
        # PIL would clip 16 bits instead of scaling them
        image = opened.point(lambda value: value / 256, "L") if opened.mode.startswith("I;16") else opened
        mode = "RGB" if viewmaker.channels == 3 else "L"
        pixels = torch.frombuffer(bytearray(image.convert(mode).tobytes()), dtype=torch.uint8)
        unit = pixels.reshape(image.height, image.width, -1).permute(2, 0, 1) / 255
    low, high = viewmaker.value_range or (0.0, 1.0)
    return low + (high - low) * unit


def _read_sound(file: Path, viewmaker: Viewmaker) -> Tensor:
    return read_sound(file)[0]


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
