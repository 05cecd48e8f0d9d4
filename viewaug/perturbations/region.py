"""Replace a region: by the same region of another sample (mix), or by the mean, zero or noise (mask)."""

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from viewaug._checks import check_choice, is_number
from viewaug.masks import moments
from viewaug.perturbations.base import Needs, Perturbation, Raw, cells_of, per_sample, smooth, spread, white
from viewaug.perturbations.change import middle

Fill = Literal["mean", "zero", "noise"]
Grain = float | int | Sequence[float | int] | None
Edge = float | tuple[float, float] | None

# The table of ranks has so many steps, and is counted from at most so many points along an axis in 1, 2 and 3
# dimensions.
_STEPS, _POINTS = 32, (64, 8, 4)
# Largest size of what is learned of the field, whose random part has a deviation of 0.9, and how much counts of what is
# learned of the share and the edge.
_TILT, _PULL = 0.5, 0.25
# Width of the edge whose gradient a hard one has, and by how much values differ that rounding makes of one.
_WIDTH = 0.1
_LEVEL = 1e-6
_DEVIATION = math.pi / math.sqrt(12)  # of noise whose tanh is uniform


class Region(Perturbation):
    """Replaces what stands where a field is lowest, a share of a sample.

    The field is smooth: random numbers on a coarse grid, interpolated, and half as much that is learned, on one twice
    as fine. An element whose rank in its sample's field is `r`, from 0 to 1, is replaced by a weight of
    ``sigmoid((t - r) / edge)``, where `t` is such that the mean weight is the share, which is uniform between 0 and its
    bound. A hard edge has a straight-through gradient. Without an edge there is no field: all weigh alike.
    """

    unitless = True

    def __init__(self, share: float, grain: Grain, edge: Edge, channels: bool) -> None:
        super().__init__()
        if not is_number(share) or not 0 < share < 1:
            raise ValueError(f"Expected `share` to be between 0 and 1, but got {share!r}.")
        self.share = float(share)
        for cell in grain if isinstance(grain, Sequence) else (() if grain is None else (grain,)):
            whole = isinstance(cell, int) and not isinstance(cell, bool) and cell > 0
            if not whole and not (isinstance(cell, float) and 0 < cell <= 1):
                raise ValueError(f"Expected `grain` to be a whole number of elements, or a share, but got {grain!r}.")
        self.grain = list(grain) if isinstance(grain, Sequence) else grain
        self.edge = _checked(edge)
        self.channels, self._many, self._learned = channels, 1, 0  # the maps of the field, and how many are learned

    def needs(self, channels: int, dims: int) -> Needs:
        if isinstance(self.grain, list) and len(self.grain) != dims:
            raise ValueError(f"Expected `grain` to be one or {dims}, by axis, but got {self.grain}.")
        if not self.channels and all(isinstance(cell, float) and cell == 1 for cell in self._grains(dims)):
            raise ValueError("Expected `grain` below 1.0 along an axis, or `channels=True`: else there is no region.")
        if self.channels and channels == 1:
            raise ValueError("Expected `channels=True` for an input of two or more channels, but it has one.")
        self._many = channels if self.channels else 1
        self._learned = 0 if self.edge is None else self._many
        return Needs(maps=self._learned, numbers=1 + isinstance(self.edge, tuple))

    def twin_needs(self, channels: int, dims: int) -> Needs:
        needs = self.needs(channels, dims)
        learned, self._learned = self._learned, 0
        return needs._replace(maps=needs.maps - learned)

    def draws(self, size: Sequence[int]) -> int:
        return 0 if self.edge is None else self._many * math.prod(self._cells(size))

    def departures(self, needs: Needs) -> tuple[list[float], list[float]]:
        return [1.0] * needs.maps, [_PULL] * needs.numbers

    def weight(self, raw: Raw) -> Tensor:
        """Return how much of each element is replaced, ``(B, 1 or channels, *spatial)``."""
        size = raw.maps.shape[2:]
        uniform = per_sample(1 + raw.numbers.tanh(), 1 + len(size)).unbind(1)
        share = self.strength * self.share / 2 * uniform[0]
        if self.edge is None:
            return share
        # Were the place of a region learned outright, it would be the same in all views, which are easy then.
        cells = self._cells(size)
        draws = raw.draws[:, : self._many * math.prod(cells)].to(raw.numbers)
        field = spread(white(draws).view(-1, self._many, *cells), size)
        if self._learned:
            finer = [many if many == 1 else 2 * many for many in cells]  # stripes stay stripes
            field = field + _TILT * smooth(raw.maps[:, : self._learned], finer).tanh()
        ranks = _Ranks(field.detach())
        if not self.edge:
            level = per_sample(ranks.value(share.detach().flatten(1)) - _LEVEL, len(size))
            hard = torch.lt(field.detach(), level, out=torch.empty_like(field))
            if not (field.requires_grad or share.requires_grad):
                return hard
            soft = _sigmoid(ranks.rank(field), share, _WIDTH)
            return hard + (soft - soft.detach())
        rank = ranks.rank(field)
        if isinstance(self.edge, float):
            return _sigmoid(rank, share, self.edge)
        return _sigmoid(rank, share, self._width(uniform[1]))

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        weight = self.weight(raw).detach()
        found = {"replaced [share]": weight.flatten(1).mean(1)}
        if self.edge is not None:
            found["replaced of the middle half [share]"] = middle(weight).flatten(1).mean(1)
        if self.channels:
            found |= {f"replaced of channel {i} [share]": w.flatten(1).mean(1) for i, w in enumerate(weight.unbind(1))}
        if isinstance(self.edge, tuple):
            found["edge [ranks]"] = self._width(1 + raw.numbers[:, 1].tanh())
        return found

    def _width(self, uniform: Tensor) -> Tensor:
        """Return the width of an edge that is drawn, log-uniformly, for numbers that are uniform from 0 to 2."""
        low, high = map(math.log, cast(tuple[float, float], self.edge))
        return (low + (high - low) / 2 * uniform).exp()

    def _grains(self, dims: int) -> list[float | int]:
        """Return the grain along each axis."""
        grain = self.grain if self.grain is not None else (0.25 if dims == 1 else 0.5)
        return grain if isinstance(grain, list) else [grain] * dims

    def _cells(self, size: Sequence[int]) -> list[int]:
        """Return the number of cells along each axis."""
        return cells_of(
            size,
            [
                max(1, round(1 / cell if isinstance(cell, float) else side / cell))
                for cell, side in zip(self._grains(len(size)), size, strict=True)
            ],
        )


class Mix(Region):
    """Replaces a region by that of a partner, another sample of the batch.

    With a hard edge this is FMix (Harris et al., 2020) as a view: a region that is cut from a smooth random field, as
    CutMix does by a box (Yun et al., ICCV 2019). Without one it is mixup (Zhang et al., ICLR 2018). The view stays
    the positive of the sample that keeps the larger share, as in DACL (Verma et al., ICML 2021). So a view depends on
    its batch; of a batch of one it is the input. Nothing comes from a partner that is not finite.

    Its random twin is just that, without anything learned.

    Args:
        share: the largest share that is replaced; it is drawn per sample, up to that.
        grain: side of a cell of the field, as a share of each side if a float, in pixels or samples if an integer;
            or one for each axis. None for a half, and for a quarter in series.
        edge: width of the edge, in ranks: 0 for a hard one; ``(low, high)`` for one that is drawn per sample,
            log-uniformly, and learned; None for none, which is mixup.
        channels: whether each channel has its own field.

    Raises:
        ValueError: for an option of the wrong value, or `channels` for an input of one channel.

    Examples:
        >>> viewmaker = viewaug.Viewmaker(perturbation={"name": "mix", "edge": (0.05, 2.0)}, budget=None)
        >>> viewmaker(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    geometric = True
    batched = True

    def __init__(self, share: float = 0.5, grain: Grain = None, edge: Edge = 0.0, channels: bool = False) -> None:
        super().__init__(share, grain, edge, channels)

    def draws(self, size: Sequence[int]) -> int:
        return super().draws(size) + 1

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        partner = partners(raw.draws[:, -1], raw.copies)
        finite = x.detach().flatten(1).sum(1).isfinite()
        partner = torch.where(finite[partner], partner, torch.arange(x.shape[0], device=x.device))
        return torch.lerp(x, x[partner], self.weight(raw))


class Mask(Region):
    """Replaces a region by the sample's mean of each channel, by zero, or by noise.

    Of fine cells it is random erasing (Zhong et al., AAAI 2020), of large ones what ColorMAE (Hinojosa et al., ECCV
    2024) found to be better: filtered noise. Cells as large as one axis are the stripes of SpecAugment (Park et al.,
    Interspeech 2019): ``grain=(1.0, 8)`` for stripes of time in a spectrogram, ``grain=(8, 1.0)`` of frequency.
    With `channels` and ``grain=1.0`` it hides whole channels.

    Its random twin is just that, without anything learned.

    Args:
        share, grain, edge, channels: as of :class:`Mix`.
        fill: ``"mean"``, ``"zero"``, or ``"noise"`` around the mean, of the deviation of each channel.

    Raises:
        ValueError: for an option of the wrong value, or `channels` for an input of one channel.
    """

    def __init__(
        self,
        share: float = 0.5,
        grain: Grain = None,
        edge: Edge = 0.0,
        channels: bool = False,
        fill: Fill = "mean",
    ) -> None:
        super().__init__(share, grain, edge, channels)
        check_choice("fill", fill, get_args(Fill))
        self.fill = fill

    def needs(self, channels: int, dims: int) -> Needs:
        needs = super().needs(channels, dims)
        return needs._replace(maps=needs.maps + channels * (self.fill == "noise"))

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        weight = self.weight(raw)
        if self.fill == "zero":
            return x * (1 - weight)
        fill = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        if self.fill == "noise":
            deviation = moments(x.flatten(0, 1).unsqueeze(1))[1].view_as(fill)  # of each channel
            fill = fill + deviation / _DEVIATION * raw.maps[:, -x.shape[1] :]
        return torch.lerp(x, fill, weight)


def partners(draws: Tensor, copies: int = 1) -> Tensor:
    """Return the place of another sample of the same copy for each sample, uniformly drawn; its own if there is none.

    Args:
        draws: uniform in [0, 1), ``(B,)``.
        copies: how many copies of a batch there are, one after the other.

    Examples:
        >>> partners(torch.tensor([0.0, 0.5, 0.9, 0.0, 0.0, 0.0]), copies=2)
        tensor([1, 0, 1, 4, 5, 3])
    """
    size = draws.shape[0] // copies
    place = torch.arange(draws.shape[0], device=draws.device)
    step = 1 + (draws * (size - 1)).long().clamp(max=max(0, size - 2))
    return place - place % size + (place + step) % size


class _Ranks:
    """The ranks of each sample's values, from 0 to 1, counted from some of a field's points."""

    def __init__(self, field: Tensor) -> None:
        for axis in range(2, field.ndim):
            side, many = field.shape[axis], _POINTS[field.ndim - 3]
            step = -(-side // many)
            field = field[(slice(None),) * axis + (slice((side - 1) % step // 2, None, step),)]
        self.points = field.flatten(1).sort(1)[0]

    def value(self, rank: Tensor) -> Tensor:
        """Return the value of a rank, ``(B, 1)``, linear between those of two points."""
        last = self.points.shape[1] - 1
        place = (rank * (last + 1) - 0.5).clamp(0, last).nan_to_num()
        below = place.long()
        above = (below + 1).clamp(max=last)
        return torch.lerp(self.points.gather(1, below), self.points.gather(1, above), place - below)

    def rank(self, field: Tensor) -> Tensor:
        """Return the share of a sample's elements below each, at equal steps of value, linear in between."""
        low, high = self.points[:, :1], self.points[:, -1:]
        edges = torch.lerp(low, high, torch.linspace(0, 1, _STEPS + 1, dtype=low.dtype, device=low.device))
        counts = torch.searchsorted(self.points, edges) + torch.searchsorted(self.points, edges, right=True)
        table = counts.to(field) / (2 * self.points.shape[1])
        place = (field.flatten(1) - low) * (_STEPS / (high - low).clamp(min=1e-9))
        step = place.detach().clamp(0, _STEPS - 1).nan_to_num().long()
        return torch.lerp(table.gather(1, step), table.gather(1, step + 1), place - step).view_as(field)


def _checked(edge: Edge) -> Edge:
    if edge is None:
        return None
    low, high = edge if isinstance(edge, (list, tuple)) and len(edge) == 2 else (edge, edge)
    numbers = all(map(is_number, (low, high)))
    if not numbers or not 0 <= low <= high < math.inf or (low == 0) != (high == 0):
        raise ValueError(
            f"Expected `edge` to be 0, positive, (low, high) with 0 < low <= high, or None, but got {edge!r}."
        )
    return (float(low), float(high)) if low < high else float(low)


def _sigmoid(rank: Tensor, share: Tensor, width: float | Tensor) -> Tensor:
    """Return ``sigmoid((t - rank) / width)``, `t` such that the mean over all ranks, 0 to 1, is the share.

    That mean is ``width * log((1 + exp(t / width)) / (1 + exp((t - 1) / width)))``, which is solved for `t`.
    """
    share = share.clamp(1e-6, 1 - 1e-6)
    level = (-(-share / width).expm1()).log() - (-((share - 1) / width).expm1()).log()
    return ((share - rank) / width + level).sigmoid()
