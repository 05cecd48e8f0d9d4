"""Viewmakers as code."""

import inspect
from typing import Any

from viewaug.viewmaker import Viewmaker


def viewmaker_code(viewmaker: Viewmaker) -> str:
    """Return the call that builds a viewmaker.

    Examples:
        >>> print(viewmaker_code(Viewmaker(3, perturbation="mask", budget=None, generator="random")))
        Viewmaker(3, budget=None, generator='random', perturbation='mask')
    """
    config = viewmaker.config
    parameters = inspect.signature(Viewmaker).parameters
    named = [name for name in parameters if name in config] + [name for name in config if name not in parameters]
    told = [
        name
        for name in named[1:]
        if name == "budget" or name not in parameters or config[name] != parameters[name].default
    ]
    parts = [f"{config['channels']}", *(f"{name}={rounded(config[name])!r}" for name in told)]
    line = f"Viewmaker({', '.join(parts)})"
    return line if len(line) < 90 else "Viewmaker(\n    " + ",\n    ".join(parts) + ",\n)"


def rounded(value: Any) -> Any:
    """Return a number with four digits, and anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
