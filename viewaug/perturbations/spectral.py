"""Add the generator's output in the frequency domain, by a type-II discrete cosine transform (DCT)."""

import math
from typing import Literal

import torch
from torch import Tensor

from viewaug.perturbations.base import Perturbation

Norm = Literal["ortho"] | None


class Spectral(Perturbation):
    """Adds ``tanh(raw)`` to the DCT coefficients; the generator sees the coefficients, too.

    Args:
        channels: channels of the input.
        dims: number of spatial dimensions of the input.
        norm: ``"ortho"`` for an orthonormal DCT; None for SciPy's un-normalised one, which the authors' code uses.
    """

    scales_up = True

    def __init__(self, channels: int, dims: int, *, norm: Norm = "ortho") -> None:
        super().__init__(channels, dims)
        self.norm = norm

    def analyse(self, x: Tensor) -> Tensor:
        """Return the DCT of `x`."""
        return dct(x, self.dims, self.norm)

    def residual(self, x: Tensor, raw: Tensor) -> Tensor:
        """Return the inverse DCT of ``tanh(raw)``."""
        return self.synthesise(raw.tanh())

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the signal of some coefficients."""
        return idct(coefficients, self.dims, self.norm)


def dct(x: Tensor, dims: int, norm: Norm = "ortho") -> Tensor:
    """Transform the last `dims` dimensions by a DCT-II, as ``scipy.fft.dctn`` does.

    Examples:
        >>> dct(torch.ones(1, 4), 1)
        tensor([[2., 0., 0., 0.]])
    """
    for dim in range(-dims, 0):
        matrix, scale = _dct_matrix(x.shape[dim], x)
        x = _apply(matrix if norm else scale[:, None] * matrix, x, dim)
    return x


def idct(coefficients: Tensor, dims: int, norm: Norm = "ortho") -> Tensor:
    """Invert :func:`dct`, as ``scipy.fft.idctn`` does.

    Examples:
        >>> idct(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), 1)
        tensor([[1., 1., 1., 1.]])
    """
    for dim in range(-dims, 0):
        matrix, scale = _dct_matrix(coefficients.shape[dim], coefficients)
        coefficients = _apply((matrix if norm else matrix / scale[:, None]).mT, coefficients, dim)
    return coefficients


def _dct_matrix(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal DCT-II matrix, frequency x time, and the factors that un-normalise its rows."""
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    scale = torch.full((n,), math.sqrt(2 * n), dtype=torch.float64)
    scale[0] *= math.sqrt(2)
    return matrix.to(like), scale.to(like)


def _apply(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    return (x.transpose(dim, -1) @ matrix.mT).transpose(dim, -1)
