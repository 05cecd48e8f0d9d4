"""Shapes, digits and letters drawn over images, as the Feature Dropout paper's code draws them.

Shapes lie in the middle third, of one colour, 71% opaque; a letter, of one colour and opaque, once in each quadrant, at
a random place; a handwritten digit four times, transparent where it is black.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

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


class Overlays(NamedTuple):
    """Overlays of a batch: colours ``(N, 3, 32, 32)`` in [0, 1], or one for all, and opacities ``(N, 1, 32, 32)``."""

    colour: Tensor
    opacity: Tensor


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

    def to(self, device: torch.device) -> Self:
        """Keep the images on a device, where overlays are drawn over them; what is drawn stays the same, to the bit."""
        self.images = Images(*(part.to(device) for part in self.images))
        return self

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the views and labels of some inputs."""
        chosen = torch.as_tensor(indices, device=self.images.x.device)
        x = self.images.x[chosen].float() / 255
        background = self.images.label[chosen]
        if self.overlay == "none":
            return {"views": [x, x], "background": background}
        first, second = self.draw_pairs(indices, self._draw)
        drawn = self._over(first)
        view = _paste(x, drawn)
        return {
            "views": [view, view if second is first else _paste(x, self._over(second))],
            "background": background,
            "overlay": torch.tensor([row[0] for row in first], device=x.device),
            "mask": drawn.opacity,
        }

    def _draw(self, rng: np.random.Generator) -> list[int | float]:
        """Draw a label, which picture, a colour, and places, from the top and from the left."""
        match self.overlay:
            case "shapes":
                label = int(rng.integers(3))
                return [label, label, *rng.random(3), *_moves(rng, self.jitter)]
            case "letters":
                label = int(rng.integers(26))
                colour = rng.random(3)
                starts = (start for corner in ((0, 0), (0, 16), (16, 0), (16, 16)) for start in corner)
                return [label, label, *colour, *(rng.integers(at, at + (7 if at == 0 else 6)) for at in starts)]
        labels = digit_images(self.digits, self.train)[1]
        which = int(rng.integers(len(labels)))
        places = [at + move for corner in QUADRANTS for at, move in zip(corner, _moves(rng, self.jitter), strict=True)]
        return [int(labels[which]), which, 0.0, 0.0, 0.0, *places]

    def _over(self, rows: Sequence[Sequence[int | float]]) -> Overlays:
        """Put pictures in their places, on the device of the images."""
        device = self.images.x.device
        table = torch.tensor(rows, dtype=torch.float64).float().to(device)
        which, places = table[:, 1].long(), table[:, 5:].long().unflatten(1, (-1, 2)).unbind(1)
        colour = table[:, 2:5, None, None]
        if self.overlay == "shapes":
            pictures = _pictures("shapes", self.digits, self.train, device)
            across = (torch.arange(SIZE, device=device) - places[0][:, :, None]) % SIZE
            opacity = pictures[which[:, None, None], across[:, 0, :, None], across[:, 1, None, :]]
            return Overlays(colour, SHAPE_OPACITY * opacity[:, None])
        pictures = _pictures(self.overlay, self.digits, self.train, device)
        height, width = pictures.shape[1:]
        found = torch.zeros(len(rows), SIZE, SIZE, device=device)
        for place in places:
            across = torch.arange(SIZE, device=device) - place[:, :, None]
            inside = (across >= 0) & (across < torch.tensor([[height], [width]], device=device))
            inside = inside[:, 0, :, None] & inside[:, 1, None, :]
            down, right = across[:, 0].clamp(0, height - 1), across[:, 1].clamp(0, width - 1)
            here = pictures[which[:, None, None], down[:, :, None], right[:, None, :]]
            found = torch.where(inside, here if self.overlay == "digits" else torch.maximum(found, here), found)
        found = found[:, None]
        return Overlays(colour, found) if self.overlay == "letters" else Overlays(found, (found > 0).float())


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


@functools.lru_cache(4)
def _pictures(overlay: str, digits: str, train: bool, device: torch.device) -> Tensor:
    """Return the shapes, letters or digits, ``(K, H, W)`` in [0, 1], on a device."""
    if overlay == "digits":
        return digit_images(digits, train)[0].to(device)
    return (shapes() if overlay == "shapes" else _letters()).to(device)


def shapes() -> Tensor:
    """Return a square, a triangle and a circle in the middle third, ``(3, 32, 32)`` in [0, 1]."""
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
        masks.append(torch.from_numpy(np.array(image)).float() / 255)
    return torch.stack(masks)


def _letters() -> Tensor:
    """The capitals in 12 points of a font that comes with Matplotlib, each at the top and left of its picture."""
    import matplotlib

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 12)
    masks = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        image = Image.new("L", (24, 24))
        ImageDraw.Draw(image).text((4, 4), letter, fill=255, font=font)
        left, top, _, _ = image.getbbox() or (0, 0, 0, 0)
        masks.append(torch.from_numpy(np.array(image.crop((left, top, left + 16, top + 16)))).float() / 255)
    return torch.stack(masks)


def _moves(rng: np.random.Generator, jitter: int) -> list[int]:
    return rng.integers(-jitter, jitter + 1, size=2).tolist()


def _paste(x: Tensor, drawn: Overlays) -> Tensor:
    return x + drawn.opacity * (drawn.colour - x)
