"""Types of command-line arguments."""

import argparse
import math
from collections.abc import Callable


def positive(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return a converter of text to positive, finite numbers of a kind."""

    def convert(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected a positive number, but got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def seed(text: str) -> int:
    """Convert text to a seed of a random generator."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected a seed from 0 to 2^63 - 1, but got {text}")
    return value
