"""The views that are compared: each method is one line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import viewaug
from viewaug.comparison.views import family
from viewaug.generators import GENERATORS


@dataclass(frozen=True)
class Method:
    """How views are made: by hand, then by a viewmaker if there is a `perturbation`.

    Args:
        by_hand: ``"none"``, ``"noise"`` of the budget, or a name that the experiment gives to its augmentations.
        perturbation: of the viewmaker.
        generator: of the viewmaker.
        protocol: ``"reversal"`` of gradients, or ``"turns"``, with the original loss and without a clamp.
        shared_probability: how likely both views of a pair show the same overlay, or have the same noise.
        budget: of noise or, fixed, of the viewmaker; None for the experiment's, which a controller may adapt.
        steered: whether a controller adapts it, by its own default difficulty if the experiment has none.
        dims: of what the viewmaker perturbs: 2 of images and spectrograms, 1 of waveforms.
    """

    by_hand: str = "none"
    perturbation: tuple[str, ...] = ()
    generator: str = "fast"
    protocol: str = "reversal"
    shared_probability: float = 1.0
    budget: float | None = None
    steered: bool = False
    dims: int = 2

    @property
    def learned(self) -> bool:
        """Whether there is a viewmaker."""
        return bool(self.perturbation)


def parse(name: str, methods: Mapping[str, Method]) -> Method:
    """Return a method by its name; ``viewmaker:colour+warp`` and ``crop+viewmaker:reference`` say of what kind it is.

    ``viewmaker:random`` and ``viewmaker:random+colour`` are random twins.
    A budget may follow, as in ``noise@0.1`` and ``viewmaker:warp@0.1``, or ``@steered`` for a controller.

    Raises:
        ValueError: if there is no such method.

    Examples:
        >>> methods = {"noise": Method("noise"), "viewmaker": Method(perturbation=("additive",))}
        >>> parse("viewmaker:spectral+colour", methods).perturbation
        ('spectral', 'colour')
        >>> parse("viewmaker:random+colour", methods).generator
        'random'
        >>> parse("noise@0.1", methods).budget
        0.1
    """
    base, kind, budget = split(name)
    if base not in methods:
        raise ValueError(f"Expected a method of {', '.join(methods)}, but got {name!r}.")
    method = _with_budget(methods[base], budget, name) if budget else methods[base]
    if not kind:
        return method
    if not method.learned or method.protocol == "turns":
        raise ValueError(f"Expected a kind of viewmaker after the name of learned views only, but got {name!r}.")
    first, *rest = parts = kind.split("+")
    if first in GENERATORS:
        method, parts = replace(method, generator=first), rest
    if parts:
        viewaug.Viewmaker(dims=method.dims, perturbation=family(parts))  # or the error that says what is wrong
        method = replace(method, perturbation=tuple(parts))
    return method


def split(name: str) -> tuple[str, str, str]:
    """Return the parts of a method's name: which, of what kind, and its budget; empty where there is none.

    Examples:
        >>> split("viewmaker:colour+warp@0.1")
        ('viewmaker', 'colour+warp', '0.1')
    """
    rest, _, budget = name.partition("@")
    base, _, kind = rest.partition(":")
    return base, kind, budget


def _with_budget(method: Method, budget: str, name: str) -> Method:
    if budget == "steered" and method.learned and method.protocol == "reversal":
        return replace(method, steered=True)
    try:
        if (method.learned or method.by_hand == "noise") and 0 < float(budget) < math.inf:
            return replace(method, budget=float(budget))
    except ValueError:
        pass
    raise ValueError(
        f"Expected a positive budget after the @, for noise and learned views, or @steered for these, but got {name!r}."
    )
