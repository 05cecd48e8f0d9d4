"""What a generator's raw output does to an input. One file a perturbation; all of them share one L1 budget."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from viewaug.perturbations.additive import Additive
from viewaug.perturbations.affine import Affine
from viewaug.perturbations.base import Needs, Perturbation, Raw
from viewaug.perturbations.blur import Blur
from viewaug.perturbations.colour import Colour
from viewaug.perturbations.filter import Filter
from viewaug.perturbations.gain import Gain
from viewaug.perturbations.kornia import Kornia
from viewaug.perturbations.mask import Mask
from viewaug.perturbations.sequential import Sequential
from viewaug.perturbations.spectral import Spectral
from viewaug.perturbations.warp import Warp

PERTURBATIONS: dict[str, type[Perturbation]] = {
    "additive": Additive,
    "spectral": Spectral,
    "colour": Colour,
    "warp": Warp,
    "affine": Affine,
    "blur": Blur,
    "mask": Mask,
    "gain": Gain,
    "filter": Filter,
    "kornia": Kornia,
}

#: A name, a name with options, a perturbation, or several of these in order.
Spec = str | Mapping[str, Any] | Perturbation | Sequence[str | Mapping[str, Any] | Perturbation]

__all__ = [
    "PERTURBATIONS",
    "Additive",
    "Affine",
    "Blur",
    "Colour",
    "Filter",
    "Gain",
    "Kornia",
    "Mask",
    "Needs",
    "Perturbation",
    "Raw",
    "Sequential",
    "Spec",
    "Spectral",
    "Warp",
    "build",
    "describe",
]


def build(spec: Spec) -> Perturbation:
    """Build a perturbation.

    Args:
        spec: a name, of :data:`PERTURBATIONS`; ``{"name": name, **options}``; a perturbation; or a list of these, to
            apply in order.

    Raises:
        ValueError: for an unknown name, or an option of the wrong value.
        TypeError: for anything else, or an unknown option.

    Examples:
        >>> build(["spectral", {"name": "mask", "patch": 8}])
        Sequential(
          (steps): ModuleList(
            (0): Spectral()
            (1): Mask(patch=8)
          )
        )
    """
    if isinstance(spec, Perturbation):
        return copy.deepcopy(spec)  # it keeps what one viewmaker needs
    if isinstance(spec, str):
        spec = {"name": spec}
    if isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if name not in PERTURBATIONS:
            raise ValueError(
                f"Expected `perturbation` to be one of {', '.join(map(repr, PERTURBATIONS))}, but got {name!r}."
            )
        try:
            return PERTURBATIONS[name](**options)
        except TypeError as error:
            raise TypeError(
                f"Expected `perturbation` to hold options of {name!r}, but got {options}: {error}"
            ) from error
    if isinstance(spec, Sequence):
        steps = [build(step) for step in spec]
        return steps[0] if len(steps) == 1 else Sequential(steps)
    raise TypeError(
        f"Expected `perturbation` to be a name, a mapping, a perturbation or a list, but got {type(spec).__name__}."
    )


def describe(perturbation: Perturbation) -> Any:
    """Return what :func:`build` makes the perturbation of again: names and options.

    Raises:
        ValueError: if its class is not in :data:`PERTURBATIONS`.

    Examples:
        >>> describe(build(["spectral", Mask(patch=8)]))
        ['spectral', {'name': 'mask', 'patch': 8}]
    """
    if isinstance(perturbation, Sequential):
        return [describe(step) for step in perturbation]
    kind = type(perturbation)
    name = next((name for name, known in PERTURBATIONS.items() if known is kind), None)
    if name is None:
        raise ValueError(f"Expected {kind.__name__} to have a name, as by PERTURBATIONS['name'] = {kind.__name__}.")
    return {"name": name, **perturbation.options} if perturbation.options else name
