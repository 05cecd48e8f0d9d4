"""Labelled images to put overlays on: CIFAR-10, a folder of images, or photographs that come with packages."""

import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from viewaug.examples.npz import read_npz
from viewaug.examples.photo_digits import SIZE, crop

from viewaug.commands._signals import IMAGES


class Images(NamedTuple):
    """Images, ``(N, 3, 32, 32)`` in 0 to 255, and their labels, ``(N,)``."""

    x: Tensor
    label: Tensor


def backgrounds(source: str, *, train: bool, count: int) -> Images:
    """Read at most `count` images.

    Args:
        source: ``"photographs"``, crops of ten that come with packages; ``"cifar10"``, by torchvision, downloaded to
            ``~/.cache/viewaug``; an .npz file of JPEG-coded images (``jpeg_train``, ``offsets_train``, ``y_train``, and
            the same for ``test``); or a folder with ``train`` and ``test``, each with a folder of images a class.
        train: which split.
        count: how many, from the beginning; of a folder's, spread over the classes.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if something in it cannot be read.
    """
    if source == "photographs":
        return _photographs(train, count)
    if source == "cifar10":
        return _cifar10(train, count)
    path = Path(source)
    if path.is_dir():
        return _folder(path / ("train" if train else "test"), count)
    split = "train" if train else "test"
    return read_npz(path, lambda file: _coded(file, split, count), "photographs, cifar10 or a path of images")


def _photographs(train: bool, count: int) -> Images:
    drawn = [crop(np.random.default_rng([1, int(train), i]), train) for i in range(count)]
    x = torch.stack([image for image, _ in drawn])
    return Images((255 * x).round().to(torch.uint8), torch.tensor([label for _, label in drawn]))


def _cifar10(train: bool, count: int) -> Images:
    from torchvision.datasets import CIFAR10

    data = CIFAR10(Path.home() / ".cache" / "viewaug", train=train, download=True)
    x = torch.from_numpy(data.data[:count]).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.tensor(data.targets[:count]))


def _coded(file: Mapping[str, np.ndarray], split: str, count: int) -> Images:
    coded, places = file[f"jpeg_{split}"].tobytes(), file[f"offsets_{split}"]
    pairs = pairwise(places[: count + 1])
    x = torch.stack([_pixels(io.BytesIO(coded[a:b])) for a, b in pairs])
    return Images(x, torch.from_numpy(file[f"y_{split}"][:count]).long())


def _folder(path: Path, count: int) -> Images:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    files = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGES
    ]
    if not files:
        raise FileNotFoundError(f"Expected folders of images, one a class, in {path}, but found none.")
    order = np.random.default_rng(0).permutation(len(files))[:count]
    images = []
    for i in order:
        try:
            images.append(_pixels(files[i][0]))
        except Exception as error:  # broken files make the reader raise all sorts
            raise ValueError(f"{files[i][0]} cannot be read: {error}") from error
    return Images(torch.stack(images), torch.tensor([files[i][1] for i in order]))


def _pixels(file: Path | io.BytesIO) -> Tensor:
    """The middle square of an image, in 32 x 32 pixels."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
