"""What a generator's raw output does to an input. One file a perturbation; all of them share one L1 budget."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from viewaug.budget import check_budget
from viewaug.perturbations.additive import Additive
from viewaug.perturbations.affine import Affine
from viewaug.perturbations.base import COMMON, Budget, Needs, Perturbation, Raw
from viewaug.perturbations.blur import Blur
from viewaug.perturbations.change import measure
from viewaug.perturbations.channels import Channels
from viewaug.perturbations.colour import Colour
from viewaug.perturbations.crop import Crop
from viewaug.perturbations.filter import Filter
from viewaug.perturbations.gain import Gain
from viewaug.perturbations.kornia import Kornia
from viewaug.perturbations.one_of import OneOf
from viewaug.perturbations.region import Mask, Mix
from viewaug.perturbations.sequential import Compound, Sequential
from viewaug.perturbations.spectral import Spectral
from viewaug.perturbations.warp import Warp

#: The perturbations by name; one's own goes in here, so that files can hold it.
PERTURBATIONS: dict[str, type[Perturbation]] = {
    "additive": Additive,
    "spectral": Spectral,
    "colour": Colour,
    "warp": Warp,
    "affine": Affine,
    "blur": Blur,
    "mask": Mask,
    "mix": Mix,
    "crop": Crop,
    "channels": Channels,
    "gain": Gain,
    "filter": Filter,
    "kornia": Kornia,
}

#: A name, a name with options, a perturbation, several of these in order, or one of several.
Spec = str | Mapping[str, Any] | Perturbation | Sequence[str | Mapping[str, Any] | Perturbation]
Known = Mapping[str, type[Perturbation]]

__all__ = [
    "COMMON",
    "PERTURBATIONS",
    "Additive",
    "Affine",
    "Blur",
    "Channels",
    "Colour",
    "Compound",
    "Crop",
    "Filter",
    "Gain",
    "Kornia",
    "Mask",
    "Mix",
    "Needs",
    "OneOf",
    "Perturbation",
    "Raw",
    "Sequential",
    "Spec",
    "Spectral",
    "Warp",
    "build",
    "check_unbounded",
    "describe",
    "leaves",
    "measure",
]


def build(spec: Spec, known: Known = PERTURBATIONS) -> Perturbation:
    """Build a perturbation.

    Args:
        spec: a name, of :data:`PERTURBATIONS`; ``{"name": name, **options}``; ``{"one_of": [spec, ...]}``, and with
            ``"shares"`` of each, to draw one for each view; a perturbation; or a list of these, to apply in order. A
            mapping may hold the ``"budget"`` of this step alone, None for none.
        known: the names.

    Raises:
        ValueError: for an unknown name, or an option of the wrong value.
        TypeError: for anything else, or an unknown option.

    Examples:
        >>> build([{"name": "mix", "share": 0.3, "budget": None}, "additive"])
        Sequential(
          (steps): ModuleList(
            (0): Mix(share=0.3, budget=None)
            (1): Additive()
          )
        )
    """
    if isinstance(spec, Perturbation):
        return copy.deepcopy(spec)  # it keeps what one viewmaker needs
    if isinstance(spec, str):
        spec = {"name": spec}
    if isinstance(spec, Mapping):
        options = dict(spec)
        budget = options.pop("budget", COMMON)
        if budget != COMMON and budget is not None:
            check_budget(budget)
            budget = float(budget)
        built = _build_one_of(options, known) if "one_of" in options else _build_named(options, known)
        if budget is None:
            check_unbounded(built)
        built.budget = budget
        return built
    if isinstance(spec, Sequence):
        steps = [build(step, known) for step in spec]
        return steps[0] if len(steps) == 1 else Sequential(steps)
    raise TypeError(
        f"Expected `perturbation` to be a name, a mapping, a perturbation or a list, but got {type(spec).__name__}."
    )


def _build_named(options: dict[str, Any], known: Known) -> Perturbation:
    name = options.pop("name", None)
    if name not in known:
        raise ValueError(f"Expected `perturbation` to be one of {', '.join(map(repr, known))}, but got {name!r}.")
    try:
        return known[name](**options)
    except TypeError as error:
        raise TypeError(f"Expected `perturbation` to hold options of {name!r}, but got {options}: {error}") from error


def _build_one_of(options: dict[str, Any], known: Known) -> Perturbation:
    steps = options.pop("one_of")
    if isinstance(steps, (str, Mapping)) or not isinstance(steps, Sequence):
        raise TypeError(f"Expected `one_of` to be a list of perturbations, but got {type(steps).__name__}.")
    if options.keys() - {"shares"}:
        raise TypeError(f"Expected `one_of` to have `shares` and `budget` beside it at most, but got {options}.")
    return OneOf([build(step, known) for step in steps], **options)


def describe(perturbation: Perturbation, known: Known = PERTURBATIONS) -> Any:
    """Return what :func:`build` makes the perturbation of again: names and options.

    Raises:
        ValueError: if its class is not in :data:`PERTURBATIONS`.

    Examples:
        >>> describe(build(["spectral", Mask(fill="zero")]))
        ['spectral', {'name': 'mask', 'fill': 'zero'}]
    """
    if isinstance(perturbation, Sequential):
        return [describe(step, known) for step in perturbation]
    budget = {} if perturbation.budget == COMMON else {"budget": perturbation.budget}
    if isinstance(perturbation, OneOf):
        return {"one_of": [describe(step, known) for step in perturbation], **perturbation.options, **budget}
    kind = type(perturbation)
    name = next((name for name, found in known.items() if found is kind), None)
    if name is None:
        raise ValueError(f"Expected {kind.__name__} to have a name, as by PERTURBATIONS['name'] = {kind.__name__}.")
    extra = {**perturbation.options, **budget}
    return {"name": name, **extra} if extra else name


def leaves(perturbation: Perturbation, budget: Budget) -> Iterator[tuple[Perturbation, Budget]]:
    """Return each perturbation that is not made of others, with the budget that bounds it, given the common one."""
    budget = budget if perturbation.budget == COMMON else perturbation.budget
    if isinstance(perturbation, Compound):
        for step in perturbation:
            yield from leaves(step, budget)
    else:
        yield perturbation, budget


def check_unbounded(perturbation: Perturbation) -> None:
    """Raise a ValueError where nothing but a budget would bound a perturbation, and there is none."""
    for leaf, budget in leaves(perturbation, None):
        if leaf.scales_up and budget is None:
            raise ValueError(
                f"Expected `budget` to be a number for the perturbation {type(leaf).__name__}, which nothing else "
                "bounds, but got None."
            )
