"""Checkpoints of the authors of Viewmaker Networks, and what they alone need."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

from torch import Tensor

from viewaug.budget import Constraint, clamp_view, rescale_to_budget
from viewaug.perturbations import Perturbation, Raw, Spectral
from viewaug.viewmaker import Frame, Viewmaker


class OriginalViewmaker(Viewmaker):
    """One whose budget may be of the coefficients of a spectral perturbation, by "rescale_coefficients"."""

    constraints: ClassVar = (*get_args(Constraint), "rescale_coefficients")

    def _within(
        self, x: Tensor, perturbation: Perturbation, raw: Raw, budget: float | Tensor | None, frame: Frame
    ) -> Tensor:
        if str(self.constraint) != "rescale_coefficients":
            return super()._within(x, perturbation, raw, budget, frame)
        if not isinstance(perturbation, Spectral) or frame.keep is not None:
            raise ValueError("Expected 'spectral' alone, and no `where`, for a budget of coefficients.")
        coefficients = rescale_to_budget(perturbation.coefficients(raw), cast(float, budget), eps=self.eps)
        return clamp_view(x, x + perturbation.synthesise(coefficients), self.value_range)


def from_reference(
    kind: type[Viewmaker],
    state_dict: Mapping[str, Any],
    *,
    budget: float,
    clamp: bool,
    frequency_domain: bool,
    activation: str,
) -> Viewmaker:
    """Build the original network; see :meth:`viewaug.Viewmaker.from_reference`."""
    state_dict = _originals(state_dict)
    options: dict[str, Any] = {} if activation == "relu" else {"activation": activation}
    channels, used = state_dict["deconv3.conv2d.weight"].shape[0], state_dict["deconv1.conv2d.weight"].shape[1]
    constraint: Any = "rescale_coefficients" if frequency_domain else "rescale"
    viewmaker = (OriginalViewmaker if frequency_domain else kind)(
        channels,
        budget=budget,
        generator="reference",
        perturbation=Spectral(norm=None) if frequency_domain else "additive",
        value_range=(0.0, 1.0) if clamp else None,
        constraint=constraint,
        units="raw",
        eps=1e-4,
        blocks=max(0, used - 128),
        **options,
    )
    renamed = {_rename(name): value for name, value in state_dict.items()}
    expected = viewmaker.generator.state_dict()
    missing = [name for name in expected if name not in renamed]
    if missing:
        raise ValueError(f"Expected `state_dict` to hold {used - 128} residual blocks, but nothing gives {missing[0]}.")
    for name, value in expected.items():
        if renamed[name].shape != value.shape:
            raise ValueError(
                f"Expected `state_dict` to hold the original's {name} of shape {tuple(value.shape)}, "
                f"but it is {tuple(renamed[name].shape)}."
            )
    viewmaker.generator.load_state_dict({name: renamed[name] for name in expected})
    return viewmaker


def _originals(state_dict: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the parameters of the original viewmaker in a state dict, or in a checkpoint that holds one."""
    state_dict = state_dict.get("state_dict", state_dict)
    last = "deconv3.conv2d.weight"
    prefixes = [name.removesuffix(last) for name in state_dict if name.endswith(last)]
    if len(prefixes) > 1:
        raise ValueError(f"Expected `state_dict` to hold one viewmaker, but it holds {', '.join(prefixes)}.")
    found = {
        name.removeprefix(prefix): v for prefix in prefixes for name, v in state_dict.items() if name.startswith(prefix)
    }
    for name in ("deconv1.conv2d.weight", last):
        if getattr(found.get(name), "ndim", 0) != 4:
            raise ValueError(
                f"Expected `state_dict` to hold an original viewmaker's parameters, but found no {name!r} "
                f"among its {len(state_dict)} entries."
            )
    return found


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
