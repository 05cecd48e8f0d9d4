"""Import what a user names."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def import_function(path: str) -> Callable[..., Any]:
    """Return the function or class of a path ``"module:name"``, which may lie in the working directory.

    Raises:
        ValueError: if there is none.
    """
    module, _, name = path.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` would have it
    try:
        found = getattr(importlib.import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"Expected a function MODULE:FUNCTION, but got {path!r}: {error}.") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"Expected a function MODULE:FUNCTION, but {path!r} is of {type(found).__name__}.")
    return found
