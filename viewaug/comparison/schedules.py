"""Schedules of learning rates."""

import math
from collections.abc import Callable


def warmed_cosine(steps: int, warmup: int = 20) -> Callable[[int], float]:
    """Return the factor of a step: a cosine from 1 to 0, times a linear warm-up.

    Examples:
        >>> factor = warmed_cosine(100)
        >>> [round(factor(step), 3) for step in (0, 50, 100)]
        [0.05, 0.5, 0.0]
    """
    return lambda step: min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2
