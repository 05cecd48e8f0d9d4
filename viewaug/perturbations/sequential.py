"""Several perturbations, one after the other."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from viewaug.perturbations.base import Needs, Perturbation, Raw


class Sequential(Perturbation):
    """Applies perturbations in order; one budget bounds what they do together."""

    def __init__(self, steps: Sequence[Perturbation]) -> None:
        super().__init__()
        if not steps:
            raise ValueError("Expected `steps` to hold at least one perturbation, but it is empty.")
        self.steps = nn.ModuleList(steps)
        self.dims = tuple(dims for dims in (1, 2, 3) if all(dims in step.dims for step in steps))
        self.scales_up = all(step.scales_up for step in steps)
        self.unit_range = any(step.unit_range for step in steps)
        self.geometric = any(step.geometric for step in steps)
        self._needs: list[Needs] = []

    @property
    def options(self) -> dict[str, Any]:
        return {}  # the steps say their own

    def needs(self, channels: int, dims: int) -> Needs:
        self._needs = [step.needs(channels, dims) for step in self]
        return Needs(sum(need.maps for need in self._needs), sum(need.numbers for need in self._needs))

    def __iter__(self) -> Iterator[Perturbation]:
        return iter(self.steps)  # type: ignore[arg-type]

    def twin(self, noise: Raw) -> Raw:
        maps, numbers = zip(
            *(step.twin(part) for step, part in zip(self, self._parts(noise), strict=True)), strict=True
        )
        return Raw(torch.cat(maps, 1), torch.cat(numbers, 1))

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        for step, part in zip(self, self._parts(raw), strict=True):
            x = step(x, part)
        return x

    def _parts(self, raw: Raw) -> Iterator[Raw]:
        maps = raw.maps.split([need.maps for need in self._needs], 1)
        numbers = raw.numbers.split([need.numbers for need in self._needs], 1)
        return map(Raw, maps, numbers)
