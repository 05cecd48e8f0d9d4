"""Several perturbations, one after the other."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from viewaug.perturbations.base import COMMON, Needs, Perturbation, Raw

Apply = Callable[[Perturbation, Tensor, Raw], Tensor]


class Compound(Perturbation):
    """What is made of several perturbations; what it needs itself follows what they need."""

    own_needs = Needs()
    own_draws = 0

    def __init__(self, steps: Sequence[Perturbation]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.dims = tuple(dims for dims in (1, 2, 3) if all(dims in step.dims for step in steps))
        self.scales_up = all(step.scales_up for step in steps)
        self.unitless = all(step.unitless for step in steps)
        self.unit_range = any(step.unit_range for step in steps)
        self.geometric = any(step.geometric for step in steps)
        self.batched = any(step.batched for step in steps)
        self._needs: list[Needs] = []

    @property
    def options(self) -> dict[str, Any]:
        return {}  # the steps say their own

    def needs(self, channels: int, dims: int) -> Needs:
        return self._all([step.needs(channels, dims) for step in self])

    def twin_needs(self, channels: int, dims: int) -> Needs:
        return self._all([step.twin_needs(channels, dims) for step in self])

    def _all(self, needs: list[Needs]) -> Needs:
        self._needs = [*needs, self.own_needs]
        return Needs(*map(sum, zip(*self._needs, strict=True)))

    def draws(self, size: Sequence[int]) -> int:
        return sum(self._draws(size))

    def _draws(self, size: Sequence[int]) -> list[int]:
        return [*(step.draws(size) for step in self), self.own_draws]

    def split(self, raw: Raw) -> list[Raw]:
        """Return the part of the raw output of each perturbation, and what is left to choose between them."""
        return raw.split(self._needs, self._draws(raw.maps.shape[2:]))

    def __iter__(self) -> Iterator[Perturbation]:
        return iter(self.steps)  # type: ignore[arg-type]

    def twin(self, noise: Raw) -> Raw:
        *parts, own = self.split(noise)
        twins = [*(step.twin(part) for step, part in zip(self, parts, strict=True)), own]
        return noise._replace(
            maps=torch.cat([twin.maps for twin in twins], 1), numbers=torch.cat([twin.numbers for twin in twins], 1)
        )

    def departures(self, needs: Needs) -> tuple[list[float], list[float]]:
        each = [step.departures(need) for step, need in zip(self, self._needs, strict=False)]
        maps, numbers = ([value for part in parts for value in part] for parts in zip(*each, strict=True))
        return maps, numbers + [1.0] * (needs.numbers - len(numbers))

    @abstractmethod
    def compose(self, x: Tensor, raw: Raw, apply: Apply) -> Tensor:
        """Return what all of them do to `x` together, where `apply` says what each does."""

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        return self.compose(x, raw, lambda step, x, part: step(x, part))

    def parts(self, raw: Raw) -> Iterator[tuple[Perturbation, Raw]]:
        """Return each perturbation with its part of the raw output."""
        return zip(self, self.split(raw)[:-1], strict=True)


class Sequential(Compound):
    """Applies perturbations in order; one budget bounds what they do together.

    Where steps have budgets of their own, or none, the common one bounds each run of steps between these, from what
    the run gets.

    Args:
        steps: the perturbations.
    """

    def __init__(self, steps: Sequence[Perturbation]) -> None:
        if not steps:
            raise ValueError("Expected `steps` to hold at least one perturbation, but it is empty.")
        if any(map(_has_own, steps)):
            runs = [(own, list(run)) for own, run in groupby(steps, _has_own)]
            steps = [step for own, run in runs for step in (run if own or len(run) == 1 else [Sequential(run)])]
        super().__init__(steps)

    @property
    def divided(self) -> bool:
        return len([step for step in self if _has_own(step)]) > 0  # older compilers take no iterator

    def compose(self, x: Tensor, raw: Raw, apply: Apply) -> Tensor:
        for step, part in self.parts(raw):
            x = apply(step, x, part)
        return x


def _has_own(step: Perturbation) -> bool:
    return step.budget != COMMON or step.divided
