"""Real images that carry three labels at once: photographs with a faint digit in one corner and a shape in another."""

import numpy as np
import torch
from torch import Tensor
from viewaug.examples.multitask.overlays import SHAPE_OPACITY, shapes
from viewaug.examples.photo_digits import photo_digits

CORNER = (1, 1)  # of the digit
OPACITY = 0.7  # of the digit
SHIFT = 8  # of the shape, from the middle down and to the right


def two_overlays(n: int, *, train: bool, seed: int = 0) -> dict[str, Tensor]:
    """Make `n` images ``x``, ``(N, 3, 32, 32)`` in [0, 1], with the labels ``photo``, ``digit`` and ``shape``.

    Image i is a function of the seed, `train` and i alone.

    Examples:
        >>> data = two_overlays(5, train=False)
        >>> data["x"].shape, data["shape"].shape
        (torch.Size([5, 3, 32, 32]), torch.Size([5]))
    """
    data = photo_digits(n, train=train, seed=seed, corner=CORNER, opacity=OPACITY)
    draws = [np.random.default_rng([seed, int(train), i, 1]) for i in range(n)]
    label = torch.tensor([int(rng.integers(3)) for rng in draws])
    colour = torch.tensor(np.array([rng.random(3) for rng in draws])).float()[:, :, None, None]
    opacity = SHAPE_OPACITY * shapes()[label][:, None].roll((SHIFT, SHIFT), (2, 3))
    x = data.images + opacity * (colour - data.images)
    return {"x": x, "photo": data.photo, "digit": data.digit, "shape": label}
