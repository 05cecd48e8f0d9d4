"""Checks of arguments that several places share."""

from collections.abc import Iterable
from typing import Any


def check_count(name: str, value: Any, smallest: int = 1) -> None:
    """Raise unless an argument is an integer of at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Expected `{name}` to be an integer, but got {type(value).__name__}.")
    if value < smallest:
        raise ValueError(f"Expected `{name}` to be at least {smallest}, but got {value}.")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise unless an argument is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}.")
