"""The viewmaker: noise, generator, perturbation and budget in one module that turns a batch into a view of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn

from viewaug._checks import check_choice, check_count, is_number, plain
from viewaug.budget import (
    Constraint,
    ValueRange,
    check_budget,
    check_value_range,
    clamp_view,
    constrain,
    full_precision,
    never_in,
    widen,
)
from viewaug.generators import GENERATORS, FastGenerator, Generator, Shapes
from viewaug.masks import fill, full_mask, moments, standardise, within_lengths
from viewaug.perturbations import (
    COMMON,
    PERTURBATIONS,
    Compound,
    Perturbation,
    Raw,
    Spec,
    build,
    check_unbounded,
    describe,
    leaves,
)

Units = Literal["input", "std", "raw"]
_Scale = tuple[float | Tensor, float | Tensor]


class Frame(NamedTuple):
    """What is the same for all perturbations of a view.

    Attributes:
        scale: what to subtract from the input and to divide it by.
        unit: of the budget.
        keep: 1 where the input may change, 0 where it is spared, and None if it may everywhere.
    """

    scale: _Scale
    unit: float | Tensor
    keep: Tensor | None


class Viewmaker(nn.Module):
    """A network that makes perturbed views of its input within an L1 budget.

    From Viewmaker Networks (Tamkin et al., ICLR 2021). A generator turns the input and some noise into a raw output,
    a perturbation applies that to the input, and the budget bounds how far the view may be from the input. The module
    perturbs in ``train()`` and in ``eval()`` alike; :class:`viewaug.AdversarialAugmentation` tells the two apart.

    Views have the dtype of the input. Weights are in any dtype but float16, to which no cast of a host takes them; the
    generator works in theirs, or as autocast has it; budgets are counted in float32 or wider.

    Views do not depend on the units of the input: generator and perturbation get it scaled by `value_range`, or where
    there is none by each sample's own mean and standard deviation.

    Args:
        channels: channels of the input.
        budget: mean absolute difference of view and input, over all non-batch dimensions of a sample, in the units of
            the input. It counts what comes out, after the clamp. May be assigned at any time. None for perturbations
            that their own options bound, which then are not blended with the input.
        dims: number of spatial dimensions: 1 for waveforms, 2 for images and spectrograms, 3 for video and volumes.
        generator: ``"random"``, which has no parameters: noise, with which the perturbation is a good random
            augmentation, its random twin. ``"fast"`` begins as that and learns how to depart from it. ``"reference"``
            is the original network (2 dims, sides from 5).
        perturbation: what the generator's output does to the input: a name of
            :data:`viewaug.perturbations.PERTURBATIONS`, ``{"name": name, **options}``, a
            :class:`viewaug.perturbations.Perturbation`, a list of these, to apply in order, or
            ``{"one_of": [...]}``, of which one is drawn for each view. Additive and spectral ones are scaled up or down
            to the budget, all others only down. In a sequence a step may carry its own budget or none,
            ``{"name": "mix", "budget": None}``; the common one then bounds each run of other steps, from what it gets.
        value_range: ``(low, high)`` of the input and the view; None for no clamp.
        constraint: ``"fit"`` spends the budget exactly, clamp included. ``"rescale"``, the papers' order, rescales to
            the budget and then clamps; ``"project"`` projects onto the L1 ball and then clamps.
        units: of the budget: ``"input"`` for those of the input, ``"std"`` for standard deviations of each sample.
            ``"raw"``, as in the original, is ``"input"`` without any scaling of what the generator sees.
        strength: how much of the range of its options a perturbation without a budget uses, above 0 and up to 1. May
            be assigned at any time.
        eps: for the two rescaling constraints, the term beside mean ``|delta|`` in the denominator; 1e-4 in the
            authors' code.
        **options: of the generator: `width`, `depth`, `patch`, `noise` and `departure` for ``"fast"``, see
            :class:`viewaug.generators.FastGenerator`; `blocks` for ``"reference"``.

    Shape:
        - x: ``(B, channels, *spatial)``, floating point.
        - Output: as `x`, of the same dtype.

    Raises:
        ValueError: for an argument or an input of the wrong value or shape.
        TypeError: for one of the wrong type.

    Examples:
        >>> viewmaker = Viewmaker(channels=3, budget=0.05)
        >>> x = torch.rand(2, 3, 32, 48)
        >>> noise = viewmaker.draw_noise(x, torch.Generator().manual_seed(0))
        >>> view = viewmaker(x, noise)
        >>> (view - x).abs().mean((1, 2, 3)).detach()
        tensor([0.0500, 0.0500])
        >>> torch.equal(view, viewmaker(x, noise))
        True
    """

    generators: ClassVar[Mapping[str, type[Generator]]] = GENERATORS
    perturbations: ClassVar[Mapping[str, type[Perturbation]]] = PERTURBATIONS
    constraints: ClassVar[Sequence[str]] = get_args(Constraint)
    #: of the format of its files
    version = 2

    def __init__(
        self,
        channels: int = 3,
        *,
        budget: float | None = 0.05,
        dims: int = 2,
        generator: str = "fast",
        perturbation: Spec = "additive",
        value_range: ValueRange = (0.0, 1.0),
        constraint: Constraint = "fit",
        units: Units = "input",
        strength: float = 1.0,
        eps: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_choice("dims", dims, (1, 2, 3))
        check_choice("generator", generator, self.generators)
        check_choice("constraint", constraint, self.constraints)
        check_choice("units", units, get_args(Units))
        check_value_range(value_range)
        if not 0 <= eps < math.inf:
            raise ValueError(f"Expected `eps` to be non-negative and finite, but got {eps}.")
        channels, options, perturbation = int(channels), plain(options), plain(perturbation)
        self.channels, self.dims = channels, int(dims)
        self.value_range: ValueRange = None if value_range is None else (float(value_range[0]), float(value_range[1]))
        self.constraint, self.units, self.eps = constraint, units, float(eps)
        self.perturbation = build(perturbation, self.perturbations)
        inherits = any(bound == COMMON for _, bound in leaves(self.perturbation, COMMON))
        self.budget = budget if inherits else None
        bounds = [bound for _, bound in leaves(self.perturbation, self.budget)]
        if constraint != "fit" and not any(bounds):
            raise ValueError(f"Expected no `constraint` where nothing has a budget, but got {constraint!r}.")
        if strength != 1:
            self.strength = strength
        kind = type(self.perturbation).__name__
        if dims not in self.perturbation.dims:
            allowed = " or ".join(map(str, self.perturbation.dims)) or "a number that all its steps share"
            raise ValueError(f"Expected `dims` to be {allowed} for the perturbation {kind}, but got {dims}.")
        if self.perturbation.unit_range and (
            self.value_range is None or (units == "raw" and self.value_range != (0.0, 1.0))
        ):
            expected = "(0, 1)" if units == "raw" else "(low, high)"
            raise ValueError(
                f"Expected `value_range` to be {expected} for the perturbation {kind}, but got {self.value_range}."
            )
        network = self.generators[generator]
        needs = (self.perturbation.twin_needs if network.blind else self.perturbation.needs)(channels, dims)
        self.generator = network(channels, needs.maps, dims, needs.numbers, **options)
        if isinstance(self.generator, FastGenerator):
            self.generator.weigh(*self.perturbation.departures(needs))
        self._generator_config = {"generator": generator, **options}

    @property
    def budget(self) -> float | None:
        """Mean absolute difference of view and input, in the units of the input or in standard deviations, or None."""
        return self._budget

    @budget.setter
    def budget(self, value: float | None) -> None:
        if value is None:
            check_unbounded(self.perturbation)
        else:
            check_budget(value)
        self._budget = None if value is None else float(value)

    @property
    def strength(self) -> float:
        """How much of the range of their options perturbations without a budget use."""
        return next((leaf.strength for leaf, budget in leaves(self.perturbation, self.budget) if budget is None), 1.0)

    @strength.setter
    def strength(self, value: float) -> None:
        if not is_number(value):
            raise TypeError(f"Expected `strength` to be a float, but got {type(value).__name__}.")
        if not 0 < value <= 1:
            raise ValueError(f"Expected `strength` to be above 0 and up to 1, but got {value}.")
        steered = [leaf for leaf, budget in leaves(self.perturbation, self.budget) if budget is None]
        if not steered:
            raise ValueError("Expected `strength` for a perturbation without a budget, but all have one.")
        for leaf in steered:
            leaf.strength = float(value)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this viewmaker."""
        return {
            "channels": self.channels,
            "budget": self.budget,
            "dims": self.dims,
            "value_range": self.value_range,
            "constraint": self.constraint,
            "units": self.units,
            "strength": self.strength,
            "eps": self.eps,
            "perturbation": describe(self.perturbation, self.perturbations),
            **self._generator_config,
        }

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw all the randomness of one view: uniform in [0, 1), in the dtype and on the device of `x`.

        Args:
            x: the input to make noise for; only its shape, dtype and device matter.
            generator: source of the noise, on any device; None for torch's own of that device.

        Shape:
            - x: ``(B, channels, *spatial)``.
            - Output: for the shapes see :meth:`noise_shapes`.
        """
        self._check_input(x)
        shapes = [(x.shape[0], *shape) for shape in self.noise_shapes(x.shape[2:])]
        if generator is None:  # not passed on as None, with which torch.rand takes no dynamic shapes
            return tuple(torch.rand(shape, dtype=x.dtype, device=x.device) for shape in shapes)
        device = generator.device
        return tuple(
            torch.rand(shape, generator=generator, dtype=x.dtype, device=device).to(x.device) for shape in shapes
        )

    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        """Return the shapes, without the batch dimension, of the noise for an input of a spatial size.

        They are the generator's, as of :class:`viewaug.generators.FastGenerator`, and what a perturbation draws.
        """
        draws = self.perturbation.draws(size)
        return self.generator.noise_shapes(size) + (((draws,),) if draws else ())

    def forward(
        self,
        x: Tensor,
        noise: tuple[Tensor, ...] | None = None,
        *,
        budget: float | Tensor | None = None,
        copies: int = 1,
        where: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Make a view.

        Args:
            x: the input.
            noise: what :meth:`draw_noise` returned, for a view that can be repeated; None to draw it here.
            budget: in place of the viewmaker's own, a number or one per sample, ``(B,)``.
            copies: how many copies of a batch `x` holds, one after the other; the partners of a mixture are of the same
                copy, so that none is the sample itself.
            where: ``(B or 1, 1 or C, *spatial)``, boolean or in [0, 1]: what is 0 comes back as it is, bit for bit,
                whatever it holds; of what is between, that share of the change is made. The budget is for the rest.
            lengths: ``(B,)``, how long each sample is along the last axis: `where` for padding.
        """
        if lengths is not None:
            self._check_input(x)
            where = within_lengths(x, lengths, where)
        if noise is None:
            noise = self.draw_noise(x)
        else:
            self._check_input(x)
            self._check_noise(x, noise)
        if budget is not None and self.budget is None:
            raise ValueError(f"Expected no `budget` for a viewmaker without one, but got {budget}.")
        if copies < 1 or x.shape[0] % copies:
            raise ValueError(f"Expected `copies` to divide the batch of {x.shape[0]}, but got {copies}.")
        if not x.shape[0]:
            return x.clone()  # instance normalisation takes no empty batch
        budget = self.budget if budget is None else budget
        *fields, draws = noise if self.perturbation.draws(x.shape[2:]) else (*noise, x.new_empty(x.shape[0], 0))
        del noise  # as large as the input; nothing needs it any more when the generator has returned
        with full_precision(x):
            wide = widen(x)
            keep = None if where is None else self._check_where(wide, where)
            kept = None if keep is None else keep > 0
            whole = wide
            if kept is not None:
                wide = fill(wide, kept)
            scale = self._scale(wide, kept)
            seen = wide if self.generator.blind else self.perturbation.analyse(standardise(wide, *scale))
        weights = next(self.generator.parameters(), x).dtype
        raw = self.generator(seen.to(weights), [field.to(weights) for field in fields])
        del fields
        with full_precision(x):
            raw = Raw(raw.maps.to(wide.dtype), raw.numbers.to(wide.dtype), draws, copies)
            if self.generator.from_noise:
                raw = self.perturbation.twin(raw)
            unit: float | Tensor = 1.0
            if self.units == "std":
                unit = (moments(wide, kept)[1] if self.value_range else cast(Tensor, scale[1])).flatten()
            if kept is not None:  # the budget is for what may change, which is a part of the mean
                unit = unit * kept.to(wide.dtype).flatten(1).mean(1)
            view = self._within(wide, self.perturbation, raw, budget, Frame(scale, unit, keep))
            return (view if kept is None else torch.where(kept, view, whole)).to(x.dtype)

    def _within(
        self,
        x: Tensor,
        perturbation: Perturbation,
        raw: Raw,
        budget: float | Tensor | None,
        frame: Frame,
    ) -> Tensor:
        """Perturb within the budget, or those that parts of the perturbation have."""
        if perturbation.budget != COMMON:
            budget = perturbation.budget
        if isinstance(perturbation, Compound) and perturbation.divided:
            return perturbation.compose(x, raw, lambda step, x, part: self._within(x, step, part, budget, frame))
        if budget is None:
            candidate = self._candidate(x, perturbation, raw, frame.scale)
            if frame.keep is not None:
                candidate = torch.lerp(x, candidate, frame.keep)
            return clamp_view(x, candidate, self.value_range)
        delta = self._residual(x, perturbation, raw, frame.scale)
        allowed = budget * frame.unit
        if frame.keep is not None:
            delta = delta * frame.keep
            # Of a sample that is spared as a whole there is nothing to scale.
            allowed = cast(Tensor, allowed).clamp(min=torch.finfo(x.dtype).tiny)
        return constrain(
            x,
            delta,
            allowed,
            self.value_range,
            self.constraint,
            eps=self.eps,
            shrink_only=not perturbation.scales_up,
        )

    def _residual(self, x: Tensor, perturbation: Perturbation, raw: Raw, scale: _Scale) -> Tensor:
        """Return candidate - input."""
        if isinstance(perturbation, Compound):
            return self._candidate(x, perturbation, raw, scale) - x
        if perturbation.unitless:
            return perturbation.residual(x, raw)
        shift, width = scale
        delta = perturbation.residual(standardise(x, shift if perturbation.unit_range else 0.0, width), raw)
        if perturbation.scales_up and self.constraint != "project":
            return delta  # the budget scales it anyhow
        return delta * width

    def _candidate(self, x: Tensor, perturbation: Perturbation, raw: Raw, scale: _Scale) -> Tensor:
        """Return what a perturbation makes of an input without any budget."""
        if isinstance(perturbation, Compound):
            return perturbation.compose(x, raw, lambda step, x, part: self._candidate(x, step, part, scale))
        if perturbation.unitless:
            return perturbation(x, raw)
        shift, width = scale
        shift = shift if perturbation.unit_range else 0.0
        return perturbation(standardise(x, shift, width), raw) * width + shift

    @classmethod
    def from_reference(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        budget: float = 0.05,
        clamp: bool = True,
        frequency_domain: bool = False,
        activation: str = "relu",
    ) -> "Viewmaker":
        """Build the original viewmaker from the state dict of an original checkpoint.

        Views agree with the authors' code: budget before clamp, 1e-4 in the denominator, un-normalised DCT.

        Args:
            state_dict: parameters under the names of the authors' code, or a checkpoint of their Lightning systems that
                holds these, loaded by ``torch.load``. Residual blocks that it stores but does not use are dropped.
            budget: the original's ``distortion_budget``.
            clamp: whether views are clamped to [0, 1]. Class default of the original; its released image runs do not.
            frequency_domain: whether the original ran on DCT coefficients.
            activation: of the original, which its parameters do not tell: ``"relu"``, its default, or
                ``"leaky_relu"``. One that scaled its input down, by ``downsample_to``, is another network, which is not
                here.

        Raises:
            ValueError: if the state dict is not one of an original viewmaker.
        """
        from viewaug.originals import from_reference

        return from_reference(
            cls, state_dict, budget=budget, clamp=clamp, frequency_domain=frequency_domain, activation=activation
        )

    def save_pretrained(self, folder: str | Path, **card: Any) -> Path:
        """Save it with a card; see :func:`viewaug.hub.save_pretrained`."""
        from viewaug import hub

        return hub.save_pretrained(self, folder, **card)

    @staticmethod
    def from_pretrained(name: str | Path, *, revision: str | None = None) -> "Viewmaker":
        """Load one of the package, from a folder, or from the Hub; see :func:`viewaug.hub.from_pretrained`."""
        from viewaug import hub

        return hub.from_pretrained(name, revision=revision)

    def push_to_hub(self, name: str, *, private: bool = False, **card: Any) -> str:
        """Upload it with a card; see :func:`viewaug.hub.push_to_hub`."""
        from viewaug import hub

        return hub.push_to_hub(self, name, private=private, **card)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast it; weights are never in float16, in which an Adam's moments and epsilon vanish."""
        return super()._apply(never_in((torch.float16,), fn), recurse)

    def extra_repr(self) -> str:
        budget = None if self.budget is None else f"{self.budget:g}"
        return (
            f"channels={self.channels}, budget={budget}, dims={self.dims}, value_range={self.value_range}, "
            f"constraint={self.constraint!r}, units={self.units!r}"
        )

    def _check_where(self, x: Tensor, where: Tensor) -> Tensor:
        """Return a mask in the dtype and of the shape of the input."""
        parts = [leaf for leaf, _ in leaves(self.perturbation, None) if leaf.geometric and not leaf.batched]
        if parts:
            raise ValueError(f"Expected no `where` for {type(parts[0]).__name__}, which moves what is spared.")
        return full_mask(x, where)

    def _scale(self, x: Tensor, kept: Tensor | None = None) -> _Scale:
        """Return what to subtract from an input and to divide it by, so that its units do not matter."""
        if self.units == "raw":
            return 0.0, 1.0
        if self.value_range is not None:
            low, high = self.value_range
            return low, high - low
        return moments(x, kept)

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"Expected `x` to be a tensor, but got {type(x).__name__}.")
        if not x.is_floating_point():
            raise TypeError(f"Expected `x` to be floating point, but got {x.dtype}.")
        expected = f"(B, {self.channels}, {', '.join('DHW'[3 - self.dims :])})"
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels:
            raise ValueError(f"Expected `x` to have the shape {expected}, but got {tuple(x.shape)}.")
        smallest = self.generator.smallest
        if min(x.shape[2:]) < smallest:
            raise ValueError(f"Expected the sides of `x` to be at least {smallest}, but got {tuple(x.shape)}.")

    def _check_noise(self, x: Tensor, noise: tuple[Tensor, ...]) -> None:
        shapes = tuple((x.shape[0], *shape) for shape in self.noise_shapes(x.shape[2:]))
        if not isinstance(noise, (tuple, list)) or not all(isinstance(field, Tensor) for field in noise):
            raise TypeError(f"Expected `noise` to be a tuple of tensors, but got {type(noise).__name__}.")
        got = tuple(tuple(field.shape) for field in noise)
        if got != shapes:
            raise ValueError(f"Expected `noise` to have the shapes {shapes}, as draw_noise(x) returns, but got {got}.")


def check_viewmaker(viewmaker: object) -> None:
    """Raise a TypeError unless something is a viewmaker."""
    if not isinstance(viewmaker, Viewmaker):
        raise TypeError(f"Expected `viewmaker` to be a viewaug.Viewmaker, but got {type(viewmaker).__name__}.")
