"""The views that are compared: each method is one line."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import kornia.augmentation as K
from torch import Tensor
from viewaug.examples.handmade import noise_views, simclr_pipeline

import viewaug
from viewaug.generators import GENERATORS


@dataclass(frozen=True)
class Method:
    """How views are made: by hand, then by a viewmaker if there is a `perturbation`.

    Args:
        by_hand: ``"none"``, ``"noise"`` of the budget, ``"crop"`` or ``"expert"``, SimCLR's augmentations.
        perturbation: of the viewmaker.
        generator: of the viewmaker.
        protocol: ``"reversal"`` of gradients, or ``"turns"``, with the original loss and without a clamp.
        shared_overlay_probability: as of :class:`viewaug.examples.multitask.overlays.Overlaid`.
        budget: of noise or of the viewmaker; None for the experiment's.
        steered: whether a controller adapts the budget, by its own default difficulty if the experiment has none.
    """

    by_hand: str = "none"
    perturbation: tuple[str, ...] = ()
    generator: str = "fast"
    protocol: str = "reversal"
    shared_overlay_probability: float = 1.0
    budget: float | None = None
    steered: bool = False

    @property
    def learned(self) -> bool:
        """Whether there is a viewmaker."""
        return bool(self.perturbation)


METHODS = {
    "none": Method(),
    "noise": Method("noise"),
    "expert": Method("expert"),
    "crop": Method("crop"),
    "manual": Method("expert", shared_overlay_probability=0.5),
    "viewmaker": Method(perturbation=("additive",)),
    "crop+viewmaker": Method("crop", ("additive",)),
    "expert+viewmaker": Method("expert", ("additive",)),
    "original": Method(perturbation=("additive",), generator="reference", protocol="turns"),
}


def parse(name: str) -> Method:
    """Return a method by its name; ``viewmaker:colour+warp`` and ``crop+viewmaker:reference`` say of what kind it is.

    A budget may follow, as in ``noise@0.1`` and ``viewmaker:warp@0.1``, or ``@steered`` for a controller.

    Raises:
        ValueError: if there is no such method.

    Examples:
        >>> parse("crop+viewmaker:spectral+colour").perturbation
        ('spectral', 'colour')
        >>> parse("noise@0.1").budget
        0.1
    """
    base, kind, budget = split(name)
    if base not in METHODS:
        raise ValueError(f"Expected a method of {', '.join(METHODS)}, but got {name!r}.")
    method = _with_budget(METHODS[base], budget, name) if budget else METHODS[base]
    if not kind:
        return method
    if not method.learned or method.protocol == "turns":
        raise ValueError(f"Expected a kind of viewmaker after the name of learned views only, but got {name!r}.")
    if kind in GENERATORS:
        return replace(method, generator=kind)
    viewaug.Viewmaker(perturbation=kind.split("+"))  # or the error that says what is wrong
    return replace(method, perturbation=tuple(kind.split("+")))


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


def by_hand(kind: str, size: int, budget: float, crop: float) -> Callable[[Tensor], Tensor] | None:
    """Return what makes a view of a batch by hand.

    Args:
        kind: as :class:`Method` has it.
        size: side of the images.
        budget: of noise.
        crop: the smallest share of the area that a crop shows.
    """
    match kind:
        case "noise":
            return lambda x: noise_views(x, budget)
        case "crop":
            return K.RandomResizedCrop((size, size), scale=(crop, 1.0))
        case "expert":
            return simclr_pipeline(size)
    return None
