"""Read .npz files, and say which one is missing or broken; write folders of .npy files, for ``viewaug compare``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from viewaug._files import replacing

T = TypeVar("T")


def read_npz(path: str | Path, reader: Callable[[Mapping[str, np.ndarray]], T], what: str) -> T:
    """Return what a function makes of a file's arrays.

    Args:
        path: the file.
        reader: takes the arrays by their names.
        what: what is expected there, for the error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected {what}, but there is no file or folder {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return reader(file)
    except Exception as error:  # broken files make their readers raise all sorts
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_arrays(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays or tensors as files of a folder, each whole or not at all."""
    for name, array in arrays.items():
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, np.asarray(array))
