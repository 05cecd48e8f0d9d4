"""Bend the input by a smooth field of displacements."""

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw, smooth


class Warp(Perturbation):
    """Resamples the input at places that are displaced smoothly, as in elastic deformation (Simard et al., ICDAR 2003).

    Args:
        knots: cells along each axis in which the displacement is free; it is interpolated in between.
        reach: largest displacement, as a share of each side.

    Raises:
        ValueError: if one of them is not positive.
    """

    geometric = True

    def __init__(self, knots: int = 4, reach: float = 0.25) -> None:
        super().__init__()
        if knots < 1:
            raise ValueError(f"Expected `knots` to be at least 1, but got {knots}.")
        if not 0 < reach <= 1:
            raise ValueError(f"Expected `reach` to be in (0, 1], but got {reach}.")
        self.knots, self.reach = knots, reach

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=dims)

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        if x.ndim == 3:  # grid_sample knows two and three dimensions
            still = torch.zeros_like(raw.maps)
            flat = Raw(torch.cat([raw.maps, still], 1)[:, :, None], raw.numbers)
            return self(x[:, :, None], flat).squeeze(2)
        identity = torch.eye(x.ndim - 2, x.ndim - 1, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        grid = F.affine_grid(identity, list(x.shape), align_corners=False)  # a side is 2 long
        shift = 2 * self.reach * smooth(raw.maps, self.knots).tanh().movedim(1, -1)
        return F.grid_sample(x, grid + shift, padding_mode="reflection", align_corners=False)
