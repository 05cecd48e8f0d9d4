"""Real images that carry two labels at once, out of packages alone: digits pasted on crops of photographs.

The photographs are ten that scikit-image and scikit-learn ship; one label says which. The digits are scikit-learn's
(8 x 8, handwritten); the other label is the digit's. Training and test crops come from disjoint cells of each
photograph, training and test digits from the first and the second half of that set, which were written by different
people but for a few.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import kornia
import numpy as np
import torch
from torch import Tensor

SIZE = 32  # of an image
CELL = 64  # of a photograph's cells; every fourth one is for testing
HEIGHT = 256  # of a photograph
DIGIT = 16  # of a pasted digit
CENTRE = ((SIZE - DIGIT) // 2, (SIZE - DIGIT) // 2)  # where its corner is
SKIMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


class PhotoDigits(NamedTuple):
    """Images in [0, 1], their two labels, and where the digit was pasted."""

    images: Tensor  # (N, 3, 32, 32)
    photo: Tensor  # (N,)
    digit: Tensor  # (N,)
    mask: Tensor  # (N, 1, 32, 32), opacity of the digit


def photo_digits(
    n: int, *, train: bool, seed: int = 0, corner: tuple[int, int] = CENTRE, opacity: float = 1.0
) -> PhotoDigits:
    """Make `n` images. Image i is a function of the seed, `train` and i alone.

    Args:
        n: how many.
        train: which parts of photographs, and which digits.
        seed: of what is drawn.
        corner: of the digit, top and left.
        opacity: of the digit.

    Examples:
        >>> data = photo_digits(5, train=False)
        >>> data.images.shape, data.photo.shape, data.digit.shape
        (torch.Size([5, 3, 32, 32]), torch.Size([5]), torch.Size([5]))
    """
    digits, labels = handwritten(train)
    images, masks, photo_labels, digit_labels = [], [], [], []
    for i in range(n):
        rng = np.random.default_rng([seed, int(train), i])
        background, k = crop(rng, train)
        j = int(rng.integers(len(digits)))
        y, x = corner
        mask = torch.zeros(1, SIZE, SIZE)
        mask[:, y : y + DIGIT, x : x + DIGIT] = opacity * digits[j]
        images.append(background + mask * (1 - background))  # a white digit
        masks.append(mask)
        photo_labels.append(k)
        digit_labels.append(int(labels[j]))
    return PhotoDigits(torch.stack(images), torch.tensor(photo_labels), torch.tensor(digit_labels), torch.stack(masks))


def cells(height: int, width: int, *, train: bool) -> list[tuple[int, int]]:
    """Top left corners of the cells of a photograph that are for training, or for testing."""
    rows, columns = range(height // CELL), range(width // CELL)
    return [(CELL * r, CELL * c) for r in rows for c in columns if ((r + 2 * c) % 4 != 0) == train]


def crop(rng: np.random.Generator, train: bool) -> tuple[Tensor, int]:
    """Draw a crop of a photograph, (3, 32, 32), and say which one it is of."""
    photos = _photographs()
    k = int(rng.integers(len(photos)))
    _, height, width = photos[k].shape
    places = cells(height, width, train=train)
    top, left = places[rng.integers(len(places))] + rng.integers(CELL - SIZE + 1, size=2)
    return photos[k][:, top : top + SIZE, left : left + SIZE], k


@functools.cache
def _photographs() -> list[Tensor]:
    """Ten photographs, (3, 256, W) in [0, 1]."""
    import skimage
    from skimage.io import imread
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    photos = [imread(folder / name) for name in SKIMAGE] + list(load_sample_images().images)
    out = []
    for photo in photos:
        tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
        size = (HEIGHT, round(HEIGHT * tensor.shape[2] / tensor.shape[1]))
        out.append(kornia.geometry.resize(tensor[None], size, antialias=True)[0].clamp(0, 1))
    return out


@functools.cache
def handwritten(train: bool) -> tuple[Tensor, Tensor]:
    """Handwritten digits as opacities, (N, 1, 16, 16), and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    half = len(data.images) // 2
    part = slice(0, half) if train else slice(half, None)
    digits = torch.from_numpy(data.images[part]).float()[:, None] / 16
    return kornia.geometry.resize(digits, (DIGIT, DIGIT)).clamp(0, 1), torch.from_numpy(data.target[part])
