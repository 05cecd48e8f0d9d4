"""Crop a part of the input, and resize it to the whole; flip it."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw
from viewaug.perturbations.change import axis_names
from viewaug.perturbations.warp import resample


class Crop(Perturbation):
    """Shows a part of the input at the size of the whole, by linear interpolation, and may flip it.

    Its random twin is SimCLR's random resized crop and flip (Szegedy et al., CVPR 2015; Chen et al., ICML 2020): area,
    aspect ratio and place are uniform, the ratio in its logarithm. What is learned is where and how large. Of a series
    it is a piece, stretched; of a volume a box, with a ratio for each two axes.

    Args:
        area: the smallest area of a crop, as a share of the whole.
        ratio: the largest ratio of two sides, and one over the smallest, relative to the whole's.
        flip: how often the last axis of an image or a volume is flipped; a series never is.

    Raises:
        ValueError: if `area` is not in (0, 1), `ratio` is below 1 or `flip` is no probability.
    """

    geometric = True
    unitless = True

    def __init__(self, area: float = 0.08, ratio: float = 4 / 3, flip: float = 0.5) -> None:
        super().__init__()
        if not 0 < area < 1:
            raise ValueError(f"Expected `area` to be between 0 and 1, but got {area}.")
        if not 1 <= ratio < math.inf:
            raise ValueError(f"Expected `ratio` to be at least 1 and finite, but got {ratio}.")
        if not 0 <= flip <= 1:
            raise ValueError(f"Expected `flip` to be a probability, but got {flip}.")
        self.area, self.ratio, self.flip = area, ratio, flip

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=2 * dims)

    def draws(self, size: Sequence[int]) -> int:
        return 1

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        dims = x.ndim - 2
        side, centre = self._box(dims, raw)
        if dims == 1:
            length = x.shape[2]
            position = torch.arange(length, dtype=x.dtype, device=x.device) + 0.5
            shift = (side - 1) * position + (centre + 1 - side) * length / 2
            return resample(x, shift[:, None])
        flipped = torch.where(raw.draws < self.flip, -1, 1).to(x)
        side = torch.cat([side[:, :-1], flipped * side[:, -1:]], 1)
        grid = _grid(side, centre, x.shape[2:])
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)  # boxes are inside

    def _box(self, dims: int, raw: Raw) -> tuple[Tensor, Tensor]:
        """Return the sides, as shares, and the centre, of sides that go from -1 to 1, the first axis first."""
        area, ratio, place = raw.numbers.tanh().split([1, dims - 1, dims], 1)
        area = 1 - self.strength * (1 - self.area) * (1 - area) / 2
        stretch = F.pad(self.strength * math.log(self.ratio) * ratio, (1, 0))
        side = (area.log() / dims + stretch - stretch.mean(1, keepdim=True)).exp().clamp(max=1)
        return side, (1 - side) * place

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        side, centre = self._box(x.ndim - 2, raw)
        first, *others = list(axis_names(x.ndim - 2))
        found = {"area [share]": side.prod(1)}
        found |= {f"ratio {axis}/{first}": side[:, i] / side[:, 0] for i, axis in enumerate(others, 1)}
        return found | {f"centre {axis} [-1 to 1]": centre[:, i] for i, axis in enumerate([first, *others])}


def _grid(side: Tensor, centre: Tensor, size: Sequence[int]) -> Tensor:
    """Return where to look for each place, ``(B, *spatial, dims)``, for boxes in an image whose sides go from -1 to 1.

    It is :func:`torch.nn.functional.affine_grid` without turning, axis by axis, which takes a fraction of the time.
    """
    axes = []
    for axis, length in enumerate(size):
        place = (2 * torch.arange(length, dtype=side.dtype, device=side.device) + 1) / length - 1
        line = side[:, axis, None] * place + centre[:, axis, None]
        shape = [side.shape[0], *(length if other == axis else 1 for other in range(len(size)))]
        axes.append(line.reshape(shape).expand(side.shape[0], *size))
    return torch.stack(axes[::-1], -1)  # grids have the last axis first
