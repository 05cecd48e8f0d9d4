"""lightly: its view transforms without what the viewmaker does instead."""

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from lightly import transforms

# Arguments that switch a change of colours or frequencies on, and that are off at zero.
_OFF = ("cj_prob", "random_gray_scale", "gaussian_blur", "solariz", "ampl_rescale", "phase_shift", "rand_freq", "gmm")
_NOT_OFF = ("range", "sigmas", "num", "std")

_ALWAYS_NORMALISED = ("msn", "msnview", "wmse")


def base_transform(name: str, **arguments: Any) -> Any:
    """Build one of lightly's view transforms that crops and flips only, and returns views in [0, 1].

    Args:
        name: of the transform, such as ``"simclr"``, ``"dino"`` or ``"byol"`` for ``SimCLRTransform``,
            ``DINOTransform`` and ``BYOLTransform`` of ``lightly.transforms``.
        **arguments: of the transform, such as ``input_size=32``; they go before what is switched off. Where a
            transform is made of two, as BYOL's, of both.

    Raises:
        ValueError: for an unknown name, or a transform that cannot leave normalisation out: MSN's and WMSE's.

    Examples:
        >>> from PIL import Image
        >>> transform = base_transform("simclr", input_size=32)
        >>> [view.shape for view in transform(Image.new("RGB", (64, 48)))]
        [torch.Size([3, 32, 32]), torch.Size([3, 32, 32])]
    """
    known = {
        cls.removesuffix("Transform").lower(): getattr(transforms, cls)
        for cls in dir(transforms)
        if cls.endswith("Transform")
    }
    known = {key: cls for key, cls in known.items() if _parts(cls) or "normalize" in _parameters(cls)}
    cls = known.get(name.lower())
    if cls is None:
        raise ValueError(f"Expected `name` to be one of {', '.join(sorted(known))}, but got {name!r}.")
    if name.lower() in _ALWAYS_NORMALISED:
        raise ValueError(
            f"Expected `name` to be of a transform that can skip normalisation, but {cls.__name__} cannot."
        )
    parts = _parts(cls)
    if parts:
        return cls(**{key: part(**_switched_off(part, arguments)) for key, part in parts.items()})
    return cls(**_switched_off(cls, arguments))


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters


def _parts(cls: type) -> dict[str, Any]:
    """The transforms of single views that a transform is made of, if its arguments are these."""
    return {key: get_args(p.annotation)[0] for key, p in _parameters(cls).items() if key.startswith("view_")}


def _switched_off(cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with all changes of colour at zero, in the shape of their defaults, and no normalisation."""
    off: dict[str, Any] = {"normalize": None}
    for key, parameter in _parameters(cls).items():
        if key.startswith(_OFF) and not any(word in key for word in _NOT_OFF):
            many = isinstance(parameter.default, tuple)
            off[key] = tuple(0.0 for _ in parameter.default) if many else 0.0
    return {**off, **arguments}
