"""Drop, turn and exchange channels: leads, bands, axes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw, per_sample


class Channels(Perturbation):
    """Multiplies the channels by a matrix: some are dropped, all are turned a little, and two may change places.

    Its random twin is what is done with leads and axes by hand: dropped and shuffled channels (Saeed et al., ICASSP
    2021), and rotated axes (Um et al., ICMI 2017). What is learned is which are dropped, with a straight-through
    gradient, and how they are turned. One channel always stays.

    Args:
        drop: how often a channel is set to zero.
        rotate: largest angle, in degrees, by which channels are turned into each other, by the Cayley transform of a
            skew matrix, which makes a proper rotation; each plane has a share of ``1 / sqrt(channels - 1)``.
        exchange: how often two channels, drawn at random, change places.
        triples: whether channels are triples of the axes of space, as of an accelerometer and a gyroscope in one
            case. All are then turned alike, by one proper rotation of space.

    Raises:
        ValueError: for an option out of its range, an input of one channel, or of no whole triples.
    """

    unitless = True

    def __init__(self, drop: float = 0.2, rotate: float = 15.0, exchange: float = 0.2, triples: bool = False) -> None:
        super().__init__()
        for name, value in (("drop", drop), ("exchange", exchange)):
            if not 0 <= value < 1:
                raise ValueError(f"Expected `{name}` to be in [0, 1), but got {value}.")
        if not 0 <= rotate <= 180:
            raise ValueError(f"Expected `rotate` to be between 0 and 180 degrees, but got {rotate}.")
        self.drop, self.rotate, self.exchange, self.triples = drop, rotate, exchange, triples

    def needs(self, channels: int, dims: int) -> Needs:
        if channels == 1:
            raise ValueError("Expected `channels` of two or more for the perturbation Channels, but got 1.")
        if self.triples and channels % 3:
            raise ValueError(f"Expected `channels` in triples for `triples=True`, but got {channels}.")
        axes = 3 if self.triples else channels
        return Needs(numbers=channels + axes * (axes - 1) // 2)

    def draws(self, size: Sequence[int]) -> int:
        return 3

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        many = x.shape[1]
        gates, angles = raw.numbers.tanh().split([many, raw.numbers.shape[1] - many], 1)
        if not (self.rotate or self.exchange):
            return x * per_sample(self._kept(gates), x.ndim - 2)
        matrix = self._turn(angles, many) * self._kept(gates)[:, None]
        matrix = matrix.gather(1, self._order(raw.draws, many)[..., None].expand_as(matrix))
        return (matrix @ x.flatten(2)).view_as(x)

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        many = x.shape[1]
        gates, angles = raw.numbers.tanh().split([many, raw.numbers.shape[1] - many], 1)
        dropped = 1 - self._kept(gates).detach().round()
        found = {"dropped [channels]": dropped.sum(1)}
        found |= {f"channel {i} dropped [share]": gone for i, gone in enumerate(dropped.unbind(1))}
        # In space that is the angle of the rotation; in more dimensions that of all planes together.
        return found | {"turned [°]": 2 * self._half(angles).tan().norm(dim=1).atan().rad2deg()}

    def _kept(self, gates: Tensor) -> Tensor:
        """Return 0 for what is dropped, and else 1."""
        above = (1 + gates) / 2 - self.strength * self.drop  # of uniform numbers
        kept = (above >= 0) | (gates >= gates.amax(1, keepdim=True))
        soft = (above / 0.1).sigmoid()
        return kept.to(soft) + (soft - soft.detach())

    def _turn(self, angles: Tensor, many: int) -> Tensor:
        """Return the rotation ``(1 - S)^-1 (1 + S)`` of a skew matrix S, of tangents of half angles."""
        axes, half = 3 if self.triples else many, self._half(angles)
        row, column = torch.triu_indices(axes, axes, 1, device=angles.device)
        upper = angles.new_zeros(angles.shape[0], axes, axes)
        upper[:, row, column] = half.tan()
        skew, one = upper - upper.mT, torch.eye(axes, dtype=angles.dtype, device=angles.device)
        turn = torch.linalg.solve_ex(one - skew, one + skew)[0]  # which looks at no error: there is none
        if not self.triples:
            return turn
        blocks = many // 3
        eye = torch.eye(blocks, dtype=angles.dtype, device=angles.device)
        return torch.einsum("ij,bkl->bikjl", eye, turn).reshape(-1, many, many)

    def _half(self, angles: Tensor) -> Tensor:
        """Return half the angle of each plane."""
        axes = round((1 + math.sqrt(1 + 8 * angles.shape[1])) / 2)
        return self.strength * math.radians(self.rotate) / 2 / math.sqrt(axes - 1) * angles

    def _order(self, draws: Tensor, many: int) -> Tensor:
        """Return the channel that comes to each place, ``(B, channels)``."""
        place = torch.arange(many, device=draws.device).expand(draws.shape[0], -1)
        first = (draws[:, 1:2] * many).long().clamp(max=many - 1)
        second = (first + 1 + (draws[:, 2:] * (many - 1)).long().clamp(max=many - 2)) % many
        swapped = place.scatter(1, first, second).scatter(1, second, first)
        return torch.where(draws[:, :1] < self.strength * self.exchange, swapped, place)
