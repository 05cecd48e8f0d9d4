"""MNIST from an .npz file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_mnist(path: str, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return images, ``(N, 28, 28)`` in 0 to 255, and labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected MNIST at {path}, but there is no such file.")
    split = "train" if train else "test"
    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file[f"x_{split}"]), torch.from_numpy(file[f"y_{split}"]).long()
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{path} cannot be read: {error}") from error
