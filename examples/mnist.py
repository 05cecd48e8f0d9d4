"""MNIST from an .npz file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``."""

import torch
from torch import Tensor
from viewaug.examples.npz import read_npz


def read_mnist(path: str, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return images, ``(N, 28, 28)`` in 0 to 255, and labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    split = "train" if train else "test"
    return read_npz(
        path,
        lambda file: (torch.from_numpy(file[f"x_{split}"]), torch.from_numpy(file[f"y_{split}"]).long()),
        "MNIST",
    )
