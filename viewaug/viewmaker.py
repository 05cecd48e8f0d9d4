"""The viewmaker: noise, generator, perturbation and budget in one module that turns a batch into a view of it."""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from viewaug._checks import check_choice, check_count
from viewaug.budget import (
    Constraint,
    ValueRange,
    check_budget,
    check_value_range,
    clamp_view,
    constrain,
    rescale_to_budget,
    widen,
)
from viewaug.generators import GENERATORS, Generator
from viewaug.perturbations import Raw, Spec, Spectral, build, describe

ViewConstraint = Constraint | Literal["rescale_coefficients"]
Units = Literal["input", "std", "raw"]
_CONSTRAINTS = (*get_args(Constraint), "rescale_coefficients")


class Viewmaker(nn.Module):
    """A network that makes perturbed views of its input within an L1 budget.

    From Viewmaker Networks (Tamkin et al., ICLR 2021). A generator turns the input and some noise into a raw output,
    a perturbation applies that to the input, and the budget bounds how far the view may be from the input. The module
    perturbs in ``train()`` and in ``eval()`` alike; :class:`viewaug.AdversarialAugmentation` tells the two apart.

    Views do not depend on the units of the input: generator and perturbation get it scaled by `value_range`, or where
    there is none by each sample's own mean and standard deviation.

    Args:
        channels: channels of the input.
        budget: mean absolute difference of view and input, over all non-batch dimensions of a sample, in the units of
            the input. It counts what comes out, after the clamp. May be assigned at any time.
        dims: number of spatial dimensions: 1 for waveforms, 2 for images and spectrograms, 3 for video and volumes.
        generator: ``"random"``, which has no parameters: noise, with which the perturbation is a good random
            augmentation, its random twin. ``"fast"`` begins as that and learns how to depart from it. ``"reference"``
            is the original network (2 dims, sides from 5).
        perturbation: what the generator's output does to the input: a name of
            :data:`viewaug.perturbations.PERTURBATIONS`, ``{"name": name, **options}``, a
            :class:`viewaug.perturbations.Perturbation`, or a list of these, to apply in order. Additive and spectral
            ones are scaled up or down to the budget, all others only down.
        value_range: ``(low, high)`` of the input and the view; None for no clamp.
        constraint: ``"fit"`` spends the budget exactly, clamp included. ``"rescale"``, the papers' order, rescales to
            the budget and then clamps; ``"project"`` projects onto the L1 ball and then clamps.
            ``"rescale_coefficients"`` counts the budget in the coefficients of a spectral perturbation, as the
            authors' code does.
        units: of the budget: ``"input"`` for those of the input, ``"std"`` for standard deviations of each sample.
            ``"raw"``, as in the original, is ``"input"`` without any scaling of what the generator sees.
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
    #: of the format of its files
    version = 2

    def __init__(
        self,
        channels: int = 3,
        *,
        budget: float = 0.05,
        dims: int = 2,
        generator: str = "fast",
        perturbation: Spec = "additive",
        value_range: ValueRange = (0.0, 1.0),
        constraint: ViewConstraint = "fit",
        units: Units = "input",
        eps: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_choice("dims", dims, (1, 2, 3))
        check_choice("generator", generator, self.generators)
        check_choice("constraint", constraint, _CONSTRAINTS)
        check_choice("units", units, get_args(Units))
        check_value_range(value_range)
        if not 0 <= eps < math.inf:
            raise ValueError(f"Expected `eps` to be non-negative and finite, but got {eps}.")
        self.budget = budget
        self.channels, self.dims = channels, dims
        self.value_range: ValueRange = None if value_range is None else (float(value_range[0]), float(value_range[1]))
        self.constraint, self.units, self.eps = constraint, units, eps
        self.perturbation = build(perturbation)
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
        if constraint == "rescale_coefficients" and not isinstance(self.perturbation, Spectral):
            raise ValueError(f"Expected `perturbation` to be 'spectral' for that `constraint`, but got {kind}.")
        maps, numbers = self.perturbation.needs(channels, dims)
        self.generator = self.generators[generator](channels, maps, dims, numbers, **options)
        self._generator_config = {"generator": generator, **options}

    @property
    def budget(self) -> float:
        """Mean absolute difference of view and input, in the units of the input or in standard deviations."""
        return self._budget

    @budget.setter
    def budget(self, value: float) -> None:
        check_budget(value)
        self._budget = float(value)

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
            "eps": self.eps,
            "perturbation": describe(self.perturbation),
            **self._generator_config,
        }

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw all the randomness of one view: uniform in [0, 1), in the dtype and on the device of `x`.

        Args:
            x: the input to make noise for; only its shape, dtype and device matter.
            generator: source of the noise, on any device; None for torch's own of that device.

        Shape:
            - x: ``(B, channels, *spatial)``.
            - Output: for the shapes see the generator's docstring, as :class:`viewaug.generators.FastGenerator`.
        """
        self._check_input(x)
        shapes = [(len(x), *shape) for shape in self.generator.noise_shapes(x.shape[2:])]
        if generator is None:  # not passed on as None, with which torch.rand takes no dynamic shapes
            return tuple(torch.rand(shape, dtype=x.dtype, device=x.device) for shape in shapes)
        device = generator.device
        return tuple(
            torch.rand(shape, generator=generator, dtype=x.dtype, device=device).to(x.device) for shape in shapes
        )

    def forward(
        self, x: Tensor, noise: tuple[Tensor, ...] | None = None, *, budget: float | Tensor | None = None
    ) -> Tensor:
        """Make a view.

        Args:
            x: the input.
            noise: what :meth:`draw_noise` returned, for a view that can be repeated; None to draw it here.
            budget: in place of the viewmaker's own, a number or one per sample, ``(B,)``.
        """
        if noise is None:
            noise = self.draw_noise(x)
        else:
            self._check_input(x)
            self._check_noise(x, noise)
        if not len(x):
            return x.clone()  # instance normalisation takes no empty batch
        budget = self.budget if budget is None else budget
        with torch.autocast(x.device.type, enabled=False):
            wide = widen(x)
            shift, scale = self._scale(wide)
            seen = self.perturbation.analyse(_standardise(wide, shift, scale))
            if self.units == "std":
                budget = budget * (moments(wide)[1] if self.value_range else cast(Tensor, scale)).flatten()
        raw = self.generator(seen.to(x.dtype), noise)
        with torch.autocast(x.device.type, enabled=False):
            raw = Raw(raw.maps.to(wide.dtype), raw.numbers.to(wide.dtype))
            if self.generator.from_noise:
                raw = self.perturbation.twin(raw)
            if self.constraint == "rescale_coefficients":
                spectral = cast(Spectral, self.perturbation)
                delta = spectral.synthesise(rescale_to_budget(spectral.coefficients(raw), budget, eps=self.eps))
                return clamp_view(wide, wide + delta, self.value_range).to(x.dtype)
            scaled = _standardise(wide, shift if self.perturbation.unit_range else 0.0, scale)
            delta = self.perturbation.residual(scaled, raw)
            if not self.perturbation.scales_up or self.constraint == "project":  # else the budget scales it anyhow
                delta = delta * scale
            return constrain(
                x,
                delta,
                budget,
                self.value_range,
                self.constraint,
                eps=self.eps,
                shrink_only=not self.perturbation.scales_up,
            )

    @classmethod
    def from_reference(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        budget: float = 0.05,
        clamp: bool = True,
        frequency_domain: bool = False,
    ) -> "Viewmaker":
        """Build the original viewmaker from the state dict of an original checkpoint.

        Views agree with the authors' code: budget before clamp, 1e-4 in the denominator, un-normalised DCT.

        Args:
            state_dict: parameters under the names of the authors' code. Residual blocks that it stores but
                does not use are dropped.
            budget: the original's ``distortion_budget``.
            clamp: whether views are clamped to [0, 1]. Class default of the original; its released image runs do not.
            frequency_domain: whether the original ran on DCT coefficients.

        Raises:
            ValueError: if the state dict is not one of an original viewmaker.
        """
        try:
            channels, used = state_dict["deconv3.conv2d.weight"].shape[0], state_dict["deconv1.conv2d.weight"].shape[1]
        except (KeyError, AttributeError, IndexError):
            raise ValueError(
                "Expected `state_dict` to hold an original viewmaker's parameters, but found no "
                f"'deconv1.conv2d.weight' or no 'deconv3.conv2d.weight' among its {len(state_dict)} entries."
            ) from None
        viewmaker = cls(
            channels,
            budget=budget,
            generator="reference",
            perturbation=Spectral(norm=None) if frequency_domain else "additive",
            value_range=(0.0, 1.0) if clamp else None,
            constraint="rescale_coefficients" if frequency_domain else "rescale",
            units="raw",
            eps=1e-4,
            blocks=used - 128,
        )
        renamed = {_rename(name): value for name, value in state_dict.items()}
        expected = viewmaker.generator.state_dict()
        missing = [name for name in expected if name not in renamed]
        if missing:
            raise ValueError(
                f"Expected `state_dict` to hold {used - 128} residual blocks, but nothing gives {missing[0]}."
            )
        viewmaker.generator.load_state_dict({name: renamed[name] for name in expected})
        return viewmaker

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, budget={self.budget:g}, dims={self.dims}, value_range={self.value_range}, "
            f"constraint={self.constraint!r}, units={self.units!r}"
        )

    def _scale(self, x: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """Return what to subtract from an input and to divide it by, so that its units do not matter."""
        if self.units == "raw":
            return 0.0, 1.0
        if self.value_range is not None:
            low, high = self.value_range
            return low, high - low
        return moments(x)

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
        shapes = tuple((len(x), *shape) for shape in self.generator.noise_shapes(x.shape[2:]))
        if not isinstance(noise, (tuple, list)) or not all(isinstance(field, Tensor) for field in noise):
            raise TypeError(f"Expected `noise` to be a tuple of tensors, but got {type(noise).__name__}.")
        got = tuple(tuple(field.shape) for field in noise)
        if got != shapes:
            raise ValueError(f"Expected `noise` to have the shapes {shapes}, as draw_noise(x) returns, but got {got}.")


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of every sample, ``(B, 1, ...)``.

    The deviation is at least a millionth of the largest value, below which there is nothing but rounding in float32.
    """
    dims = tuple(range(1, x.ndim))
    peak = x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-30)
    relative = x / peak  # whose square neither overflows nor vanishes
    mean = relative.mean(dims, keepdim=True)
    variance = (relative - mean).square().mean(dims, keepdim=True)
    return peak * mean, peak * variance.clamp(min=1e-12).sqrt()


def _standardise(x: Tensor, shift: float | Tensor, scale: float | Tensor) -> Tensor:
    if not isinstance(shift, float) or shift:
        x = x - shift
    return x if isinstance(scale, float) and scale == 1 else x / scale


def _rename(name: str) -> str:
    """Our name for a parameter of the authors' code."""
    name = name.replace(".conv2d.", ".")
    for pattern, replacement in (
        (r"^conv(\d)\.", lambda m: f"down.{int(m[1]) - 1}.conv."),
        (r"^in([123])\.", lambda m: f"down.{int(m[1]) - 1}.norm."),
        (r"^res(\d)\.conv(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}.conv{m[2]}.conv."),
        (r"^res(\d)\.in(\d)\.", lambda m: f"blocks.{int(m[1]) - 1}.conv{m[2]}.norm."),
        (r"^deconv([12])\.", lambda m: f"up.{2 * int(m[1]) - 1}.conv."),
        (r"^in([45])\.", lambda m: f"up.{2 * int(m[1]) - 7}.norm."),
        (r"^deconv3\.", lambda m: "head."),
    ):
        name = re.sub(pattern, replacement, name)
    return name
