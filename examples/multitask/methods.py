"""The views that are compared: each method is one line."""

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
    """

    by_hand: str = "none"
    perturbation: tuple[str, ...] = ()
    generator: str = "fast"
    protocol: str = "reversal"
    shared_overlay_probability: float = 1.0


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

    Raises:
        ValueError: if there is no such method.

    Examples:
        >>> parse("crop+viewmaker:spectral+colour").perturbation
        ('spectral', 'colour')
    """
    base, _, kind = name.partition(":")
    if base not in METHODS:
        raise ValueError(f"Expected a method of {', '.join(METHODS)}, but got {name!r}.")
    method = METHODS[base]
    if not kind:
        return method
    if not method.perturbation or method.protocol == "turns":
        raise ValueError(f"Expected a kind of viewmaker after the name of learned views only, but got {name!r}.")
    if kind in GENERATORS:
        return replace(method, generator=kind)
    viewaug.Viewmaker(perturbation=kind.split("+"))  # or the error that says what is wrong
    return replace(method, perturbation=tuple(kind.split("+")))


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
