"""Checks of arguments that several places share."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_count(name: str, value: Any, smallest: int = 1) -> None:
    """Raise unless an argument is an integer of at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be an integer, but got {type(value).__name__}.")
    if value < smallest:
        raise ValueError(f"Expected `{name}` to be at least {smallest}, but got {value}.")


def is_number(value: Any) -> bool:
    """Whether something is a real number, of Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return Python's numbers for NumPy's, also in lists and mappings, so that JSON can hold them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    numpys: Any = value
    return numpys.item() if type(value).__module__ == "numpy" and isinstance(value, Real) else value


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless an argument is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}.")
