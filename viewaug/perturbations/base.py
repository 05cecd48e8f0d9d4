"""What every perturbation has in common."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewaug.perturbations.change import measure


class Needs(NamedTuple):
    """What a perturbation needs of a generator: dense maps, and numbers per sample."""

    maps: int = 0
    numbers: int = 0


class Raw(NamedTuple):
    """What a perturbation gets.

    A generator makes dense maps, ``(B, maps, *spatial)``, and numbers, ``(B, numbers)``, around 0. Draws,
    ``(B, draws)``, are uniform in [0, 1), for what no generator makes, such as which other sample is the partner. The
    batch holds so many copies of as many samples, one copy after the other.
    """

    maps: Tensor
    numbers: Tensor
    draws: Tensor = cast(Tensor, None)  # until the viewmaker adds them; compilers take no tensor as a default
    copies: int = 1

    def split(self, needs: Sequence[Needs], draws: Sequence[int]) -> list["Raw"]:
        """Divide it among several perturbations, by what each needs and draws."""
        maps, numbers, drawn = (
            part.split(list(many), 1) if sum(many) else [part] * len(needs)
            for part, many in zip(
                (self.maps, self.numbers, self.draws), (*zip(*needs, strict=True), draws), strict=True
            )
        )
        return [Raw(*part, self.copies) for part in zip(maps, numbers, drawn, strict=True)]


#: As the budget of a step: the viewmaker's own.
COMMON: Literal["common"] = "common"
Budget = float | Literal["common"] | None


class Perturbation(nn.Module, ABC):
    """Turns an input and a generator's raw output into a candidate for the view; the budget bounds candidate - input.

    A subclass says in :meth:`needs` what it wants from the generator and defines :meth:`forward`; how noise makes it a
    good random augmentation it may say in :meth:`twin`. It keeps each argument of its constructor in an attribute of
    the same name, from which a checkpoint rebuilds it.

    What it gets does not depend on the units of the signal: inputs are divided by the width of the viewmaker's value
    range, or without one by each sample's standard deviation, unless it is the same in all units by itself.

    Examples:
        >>> from viewaug.perturbations import PERTURBATIONS, Needs, Perturbation
        >>> class Invert(Perturbation):
        ...     '''Blends an image with its negative.'''
        ...
        ...     def needs(self, channels, dims):
        ...         return Needs(numbers=1)
        ...
        ...     def forward(self, x, raw):
        ...         share = raw.numbers.tanh().abs()[..., None, None]
        ...         return x + share * (1 - 2 * x)
        >>> PERTURBATIONS["invert"] = Invert  # a name, under which checkpoints find it
        >>> x = torch.rand(2, 3, 8, 8)
        >>> viewaug.Viewmaker(perturbation="invert")(x).shape
        torch.Size([2, 3, 8, 8])
        >>> del PERTURBATIONS["invert"]
    """

    #: numbers of spatial dimensions for which it is defined
    dims: tuple[int, ...] = (1, 2, 3)
    #: whether the budget scales the residual up as well as down
    scales_up = False
    #: whether it is defined for values from 0 to 1 only, to which inputs with a value range are scaled
    unit_range = False
    #: whether it is the same in all units, and so gets an input as it is
    unitless = False
    #: whether it moves what is in the input, or brings in something else, so that masks, boxes and keypoints would no
    #: longer fit
    geometric = False
    #: of its own, where it is a step of several: a number; None for none; or the viewmaker's
    budget: Budget = COMMON
    #: whether a view depends on other samples of the batch
    batched = False
    #: how much of the range of its options it uses, above 0 and up to 1; where no budget bounds it, a controller steers
    #: this
    strength = 1.0

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def needs(self, channels: int, dims: int) -> Needs:
        """Say what to make for inputs of so many channels and spatial dimensions; raise where it is not defined."""

    def twin_needs(self, channels: int, dims: int) -> Needs:
        """Say the same of the random twin, which may need less."""
        return self.needs(channels, dims)

    def draws(self, size: Sequence[int]) -> int:
        """Return how many draws it takes for each sample of a spatial size."""
        return 0

    def analyse(self, x: Tensor) -> Tensor:
        """Return what the generator sees of an input."""
        return x

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        """Return a candidate for the view of `x`; all are float32 or wider."""
        return x + self.residual(x, raw)

    def twin(self, noise: Raw) -> Raw:
        """Turn white noise into a raw output with which this is a good random augmentation, its random twin.

        What is learned is added to the noise beforehand, so that it counts in the noise's own scale and grain.

        Args:
            noise: of the shapes of a raw output. Entries are independent, symmetric around 0, and their tanh is
                uniform in (-1, 1): as it is, all of a perturbation's range is equally likely, as in RandAugment
                (Cubuk et al., NeurIPS 2020).
        """
        return noise

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        """Return candidate - input; a perturbation that has it without the subtraction overrides this instead."""
        return self(x, raw) - x

    def departures(self, needs: Needs) -> tuple[list[float], list[float]]:
        """Return for each map and each number how much of the departure from its noise counts, which is learned."""
        return [1.0] * needs.maps, [1.0] * needs.numbers

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        """Say in units what a raw output does to an input, for :func:`viewaug.explain`.

        Without a budget, that is: where one blends the result with the input, this is what is blended. By default it
        is what can be said of any change, :func:`viewaug.perturbations.measure`.

        Returns:
            Numbers per sample, ``(B,)``, by names that end in their units, such as ``"rotation [°]"``.
        """
        return measure(self.residual(x, raw))

    @property
    def divided(self) -> bool:
        """Whether perturbations that it is made of have budgets of their own."""
        return False

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are not at their defaults."""
        parameters = inspect.signature(type(self)).parameters.items()
        return {name: getattr(self, name) for name, p in parameters if getattr(self, name) != p.default}

    def extra_repr(self) -> str:
        budget = {} if self.budget == COMMON else {"budget": self.budget}
        return ", ".join(f"{name}={value!r}" for name, value in (self.options | budget).items())


def coarse(field: Tensor, knots: int | Sequence[int]) -> Tensor:
    """Repeat one value in each of `knots` cells along each axis, such that noise stays as large as it was."""
    size = field.shape[2:]
    return F.interpolate(F.interpolate(field, cells_of(size, knots)), size)


def smooth(field: Tensor, knots: int | Sequence[int]) -> Tensor:
    """Average a field, ``(B, C, *spatial)``, in `knots` cells along each axis, and interpolate linearly in between."""
    size = field.shape[2:]
    return spread(_POOL[len(size)](field, cells_of(size, knots)), size)


def spread(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate a grid, ``(B, C, *cells)``, linearly to a spatial size."""
    for axis, side in enumerate(size, 2):  # by matrices, which takes a tenth of the time on a CPU
        matrix = torch.eye(grid.shape[axis], dtype=grid.dtype, device=grid.device)[None]
        matrix = F.interpolate(matrix, side, mode="linear", align_corners=False)[0]
        grid = (grid.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return grid


def white(draws: Tensor) -> Tensor:
    """Turn draws from [0, 1) into numbers around 0 whose tanh is uniform in (-1, 1): half a logit."""
    return torch.logit(draws, 1e-6) / 2  # 0 would be infinite


def decibels(logarithm: Tensor) -> Tensor:
    """Turn the natural logarithm of a factor into decibels."""
    return 20 / math.log(10) * logarithm


def cells_of(size: Sequence[int], knots: int | Sequence[int]) -> list[int]:
    """Return `knots` for each axis, at most as many as there are elements."""
    each = [knots] * len(size) if isinstance(knots, int) else knots
    return [min(side, cells) for side, cells in zip(size, each, strict=True)]


_POOL: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def per_sample(numbers: Tensor, dims: int) -> Tensor:
    """Give numbers, ``(B, n)``, the shape ``(B, n, 1, ...)`` that broadcasts with an input of so many dimensions."""
    return numbers[(..., *(None,) * dims)]
