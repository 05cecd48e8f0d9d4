"""Which views do my data need? Kinds of views side by side, on anyone's arrays."""

from viewaug.comparison.compare import compare
from viewaug.comparison.result import Comparison

__all__ = ["Comparison", "compare"]
