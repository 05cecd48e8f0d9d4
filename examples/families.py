"""Perturbations that go by one name in experiments; those that bound themselves have no budget."""

from collections.abc import Sequence
from typing import Any

FAMILIES: dict[str, Any] = {
    "mix": {"name": "mix", "budget": None},
    "softmix": {"name": "mix", "edge": (0.05, 2.0), "budget": None},  # an edge drawn from hard to nearly uniform
    "mixup": {"name": "mix", "edge": 10.0, "budget": None},  # uniform weights
    "mask": {"name": "mask", "budget": None},
    "crop": {"name": "crop", "budget": None},
    "channels": {"name": "channels", "budget": None},
    # Learned mixing within the common budget.
    "blend": {"name": "mix", "edge": 0.5},
}


def family(names: Sequence[str]) -> list[Any]:
    """Return the perturbations of some names, for :class:`viewaug.Viewmaker`.

    Examples:
        >>> family(["mix", "additive"])
        [{'name': 'mix', 'budget': None}, 'additive']
    """
    return [FAMILIES.get(name, name) for name in names]
