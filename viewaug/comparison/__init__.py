"""Which views do my data need? Kinds of views side by side, on anyone's arrays."""

from viewaug.comparison.result import Comparison
from viewaug.comparison.study import compare

__all__ = ["Comparison", "compare"]
