"""Bend the input by a smooth field of displacements."""

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug._checks import check_count
from viewaug.perturbations.base import Needs, Perturbation, Raw, coarse, smooth
from viewaug.perturbations.change import axis_names


class Warp(Perturbation):
    """Resamples the input at places that are displaced smoothly, as in elastic deformation (Simard et al., ICDAR 2003).

    Its random twin is just that, with displacements of some tenth of each side.

    Args:
        knots: cells along each axis in which the displacement is free; it is interpolated in between.
        reach: largest displacement, as a share of each side.

    Raises:
        ValueError: if `knots` is not a positive integer or `reach` is not in (0, 1].
    """

    geometric = True
    unitless = True

    def __init__(self, knots: int = 4, reach: float = 0.25) -> None:
        super().__init__()
        check_count("knots", knots)
        if not 0 < reach <= 1:
            raise ValueError(f"Expected `reach` to be in (0, 1], but got {reach}.")
        self.knots, self.reach = knots, reach

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=dims)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(maps=0.5 * coarse(noise.maps, self.knots))

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        shift = self._shift(raw)
        if x.ndim == 3:
            return resample(x, x.shape[2] * shift)
        identity = torch.eye(x.ndim - 2, x.ndim - 1, dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1)
        grid = F.affine_grid(identity, list(x.shape), align_corners=False)  # a side is 2 long
        return F.grid_sample(x, grid + 2 * shift.movedim(1, -1), padding_mode="reflection", align_corners=False)

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        shift = self._shift(raw)
        found = {
            f"moved {a} [share of side]": s.flatten(1).mean(1)
            for a, s in zip(axis_names(x.ndim - 2), shift.unbind(1), strict=True)
        }
        bent = shift.flatten(2).std(2, correction=0).square().sum(1).sqrt()
        return found | {"bent [share of side]": bent}

    def _shift(self, raw: Raw) -> Tensor:
        """Return displacements along each axis, as shares of its side."""
        return self.strength * self.reach * smooth(raw.maps, self.knots).tanh()


def resample(x: Tensor, shift: Tensor) -> Tensor:
    """Resample a waveform at places shifted by so many samples; float32 could not tell a long one's places apart."""
    length, whole = x.shape[2], shift.floor()

    def take(places: Tensor) -> Tensor:
        places = places.remainder(2 * length)
        return x.gather(2, torch.minimum(places, 2 * length - 1 - places).expand_as(x))

    left = torch.arange(length, device=x.device) + whole.long()
    return torch.lerp(take(left), take(left + 1), shift - whole)
