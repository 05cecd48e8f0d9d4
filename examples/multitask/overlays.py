"""Shapes, digits and letters drawn over images, as the Feature Dropout paper's code draws them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from viewaug.examples.mnist import read_mnist
from viewaug.examples.multitask.backgrounds import SIZE, Images
from viewaug.examples.multitask.pairs import Pairs

OVERLAYS = {"none": 0, "shapes": 3, "digits": 10, "letters": 26}  # and their numbers of classes
SHAPE_OPACITY = 180 / 255
QUADRANTS = ((4, 4), (4, 16), (16, 4), (16, 16))  # of the digits' top left corners
DIGIT = 10  # pixels


class Drawn(NamedTuple):
    """An overlay: colours ``(3, 32, 32)`` in [0, 1], opacity ``(1, 32, 32)``, and its label."""

    colour: Tensor
    opacity: Tensor
    label: int


class Overlaid(Pairs):
    """Images with overlays, in pairs for contrastive learning.

    An item is a dictionary: ``views``, two images ``(3, 32, 32)`` in [0, 1], ``background`` and ``overlay``, the labels
    (of the first view), and ``mask``, the overlay's opacity there.

    Args:
        images: the backgrounds.
        overlay: a name of :data:`OVERLAYS`.
        train: whether for training; of digits, which split they are from.
        seed: of the overlays.
        redraw: draw new overlays each epoch; see `epoch`.
        jitter: by how many pixels shapes and digits move from their places at most, along both axes.
        shared_overlay_probability: how likely both views show the same overlay, and not one drawn anew: 1 in the
            paper; less is the manual feature dropout of its authors' later code.
        digits: source of digits, as :func:`digit_images` takes it.
    """

    drawn = "overlay"

    def __init__(
        self,
        images: Images,
        overlay: str,
        *,
        train: bool,
        seed: int = 0,
        redraw: bool = False,
        jitter: int = 0,
        shared_overlay_probability: float = 1.0,
        digits: str = "digits",
    ) -> None:
        if overlay not in OVERLAYS:
            raise ValueError(f"Expected `overlay` to be one of {', '.join(OVERLAYS)}, but got {overlay!r}.")
        if not 0 <= jitter <= QUADRANTS[0][0]:
            raise ValueError(f"Expected `jitter` to be from 0 to {QUADRANTS[0][0]} pixels, but got {jitter}.")
        super().__init__(train=train, seed=seed, redraw=redraw, shared=shared_overlay_probability)
        self.images, self.overlay, self.jitter, self.digits = images, overlay, jitter, digits

    def __len__(self) -> int:
        return len(self.images.x)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch; a DataLoader asks for it at once if `collate_fn` leaves it as it is."""
        x = self.images.x[torch.as_tensor(indices)].float() / 255
        background = self.images.label[torch.as_tensor(indices)]
        if self.overlay == "none":
            return {"views": [x, x], "background": background}
        first, second = self.draw_pairs(indices, self._draw)
        view = _paste(x, first)
        return {
            "views": [view, view if second is first else _paste(x, second)],
            "background": background,
            "overlay": torch.tensor([drawn.label for drawn in first]),
            "mask": torch.stack([drawn.opacity for drawn in first]),
        }

    def _draw(self, rng: np.random.Generator) -> Drawn:
        match self.overlay:
            case "shapes":
                return draw_shape(rng, self.jitter)
            case "letters":
                return draw_letter(rng)
        return draw_digit(rng, self.train, self.jitter, self.digits)


def draw_shape(rng: np.random.Generator, jitter: int = 0) -> Drawn:
    """Draw a square, a triangle or a circle in the middle third, of one colour, 71% opaque."""
    label = int(rng.integers(3))
    colour = torch.from_numpy(rng.random(3)).float()
    opacity = SHAPE_OPACITY * torch.roll(_shapes()[label], tuple(_moves(rng, jitter)), (1, 2))
    return Drawn(_flat(colour), opacity, label)


def draw_letter(rng: np.random.Generator) -> Drawn:
    """Draw a capital letter four times, once in each quadrant at a random place, of one colour, opaque."""
    label = int(rng.integers(26))
    colour = torch.from_numpy(rng.random(3)).float()
    mask = _letters()[label]
    opacity = torch.zeros(1, SIZE, SIZE)
    for low in ((0, 0), (0, 16), (16, 0), (16, 16)):
        top, left = (int(rng.integers(start, start + (7 if start == 0 else 6))) for start in low)
        height, width = min(mask.shape[0], SIZE - top), min(mask.shape[1], SIZE - left)
        place = opacity[0, top : top + height, left : left + width]
        place.copy_(torch.maximum(place, mask[:height, :width]))
    return Drawn(_flat(colour), opacity, label)


def draw_digit(rng: np.random.Generator, train: bool, jitter: int = 0, source: str = "digits") -> Drawn:
    """Paste a handwritten digit of 10 x 10 pixels four times; where it is black it is transparent."""
    digits, labels = digit_images(source, train)
    j = int(rng.integers(len(digits)))
    grey = torch.zeros(1, SIZE, SIZE)
    for top, left in QUADRANTS:
        down, right = _moves(rng, jitter)
        grey[0, top + down : top + down + DIGIT, left + right : left + right + DIGIT] = digits[j]
    return Drawn(grey.expand(3, -1, -1), (grey > 0).float(), int(labels[j]))


@functools.cache
def digit_images(source: str, train: bool) -> tuple[Tensor, Tensor]:
    """Return digits, ``(N, 10, 10)`` in [0, 1], and labels; training and test digits are disjoint.

    Args:
        source: ``"digits"``, scikit-learn's; ``"mnist"``, by torchvision, downloaded to ``~/.cache/viewaug``; or an
            .npz file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.
        train: which split.
    """
    if source == "digits":
        from viewaug.examples.photo_digits import handwritten

        opacity, labels = handwritten(train)
        pixels = (255 * opacity.squeeze(1)).round().to(torch.uint8)
    elif source == "mnist":
        from torchvision.datasets import MNIST

        data = MNIST(Path.home() / ".cache" / "viewaug", train=train, download=True)
        pixels, labels = data.data, data.targets
    else:
        pixels, labels = read_mnist(source, train=train)
    small = [Image.fromarray(digit.numpy()).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC) for digit in pixels]
    return torch.stack([torch.from_numpy(np.array(digit)) for digit in small]).float() / 255, labels.long()


@functools.cache
def _shapes() -> list[Tensor]:
    low, high = SIZE / 3, 2 * SIZE / 3
    masks = []
    for name in ("square", "triangle", "circle"):
        image = Image.new("L", (SIZE, SIZE))
        pen = ImageDraw.Draw(image)
        if name == "square":
            pen.rectangle((low, low, high, high), fill=255)
        elif name == "triangle":
            pen.polygon([(low, high), (high, high), (SIZE / 2, low)], fill=255)
        else:
            pen.ellipse((low, low, high, high), fill=255)
        masks.append(torch.from_numpy(np.array(image))[None].float() / 255)
    return masks


@functools.cache
def _letters() -> list[Tensor]:
    """The capitals in 12 points of a font that comes with Matplotlib, without margins."""
    import matplotlib

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 12)
    masks = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        image = Image.new("L", (24, 24))
        ImageDraw.Draw(image).text((4, 4), letter, fill=255, font=font)
        masks.append(torch.from_numpy(np.array(image.crop(image.getbbox()))).float() / 255)
    return masks


def _moves(rng: np.random.Generator, jitter: int) -> list[int]:
    return rng.integers(-jitter, jitter + 1, size=2).tolist()


def _flat(colour: Tensor) -> Tensor:
    return colour[:, None, None].expand(3, SIZE, SIZE)


def _paste(x: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    opacity, colour = (torch.stack([getattr(d, part) for d in drawn]) for part in ("opacity", "colour"))
    return x + opacity * (colour - x)
