"""Add the generator's output in the frequency domain, by a type-II discrete cosine transform (DCT)."""

import math
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw

Norm = Literal["ortho"] | None

# Sides from which on a fast Fourier transform replaces the product with a dense matrix: faster for waveforms long
# before, and for images some time after.
_FFT_FROM = 512


class Spectral(Perturbation):
    """Adds ``tanh(raw)`` to the DCT coefficients; the generator sees the coefficients, too.

    Its random twin is noise whose amplitude falls with the frequency, as that of natural images does (Field, JOSA A
    1987), so that it hides as much at every scale.

    Args:
        norm: ``"ortho"`` for an orthonormal DCT; None for SciPy's un-normalised one, which the authors' code uses.
        band: lowest and highest frequency to change, as shares of the Nyquist frequency. Of the frequencies along the
            axes the highest counts.

    Raises:
        ValueError: if `norm` is another, or `band` is not two shares in order.
    """

    scales_up = True

    def __init__(self, norm: Norm = "ortho", band: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if norm not in ("ortho", None):
            raise ValueError(f"Expected `norm` to be 'ortho' or None, but got {norm!r}.")
        if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
            raise ValueError(f"Expected `band` to be (low, high) with 0 <= low < high <= 1, but got {band}.")
        self.norm = norm
        self.band = (float(band[0]), float(band[1]))

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=channels)

    def analyse(self, x: Tensor) -> Tensor:
        return dct(x, x.ndim - 2, self.norm)

    def twin(self, noise: Raw) -> Raw:
        places = [torch.arange(side, dtype=noise.maps.dtype, device=noise.maps.device) for side in noise.maps.shape[2:]]
        frequency = torch.stack(torch.meshgrid(*places, indexing="ij")).square().sum(0).sqrt()
        return noise._replace(maps=0.3 * noise.maps / (1 + frequency))

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        return self.synthesise(self.coefficients(raw))

    def coefficients(self, raw: Raw) -> Tensor:
        """Return what is added to the coefficients."""
        change = raw.maps.tanh()
        if self.band == (0.0, 1.0):
            return change
        low, high = self.band
        shares = [torch.arange(side, device=change.device) / side for side in change.shape[2:]]
        frequency = reduce(torch.maximum, torch.meshgrid(*shares, indexing="ij"))
        return change * ((frequency >= low) & (frequency <= high))

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the signal of some coefficients."""
        return idct(coefficients, coefficients.ndim - 2, self.norm)


def dct(x: Tensor, dims: int, norm: Norm = "ortho") -> Tensor:
    """Transform the last `dims` dimensions by a DCT-II, as ``scipy.fft.dctn`` does.

    Examples:
        >>> dct(torch.ones(1, 4), 1)
        tensor([[2., 0., 0., 0.]])
    """
    for dim in range(-dims, 0):
        x = fast_dct(x, dim) if x.shape[dim] >= _FFT_FROM else _multiply(_dct_matrix(x.shape[dim], x), x, dim)
        x = x if norm else x * _scale(x, dim)
    return x


def idct(coefficients: Tensor, dims: int, norm: Norm = "ortho") -> Tensor:
    """Invert :func:`dct`, as ``scipy.fft.idctn`` does.

    Examples:
        >>> idct(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), 1)
        tensor([[1., 1., 1., 1.]])
    """
    x = coefficients
    for dim in range(-dims, 0):
        x = x if norm else x / _scale(x, dim)
        x = fast_idct(x, dim) if x.shape[dim] >= _FFT_FROM else _multiply(_dct_matrix(x.shape[dim], x).mT, x, dim)
    return x


def scale_spectrum(x: Tensor, gain: Tensor, dim: int) -> Tensor:
    """Multiply the coefficients of a DCT along one dimension by a gain of each sample.

    Of short dimensions that is one product with a symmetric matrix of each sample.

    Args:
        x: ``(B, C, *spatial)``.
        gain: ``(B, side)``.
        dim: -1 for the last dimension, down to -3.

    Examples:
        >>> scale_spectrum(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[1.0, 0.0, 0.0]]), -1)
        tensor([[[2.0000, 2.0000, 2.0000]]])
    """
    side, dims = x.shape[dim], x.ndim - 2
    if side >= _FFT_FROM:
        shaped = gain.view(x.shape[0], *(side if axis == x.ndim + dim else 1 for axis in range(1, x.ndim)))
        return fast_idct(fast_dct(x, dim) * shaped, dim)
    matrix = _dct_matrix(side, x)
    kernel = (matrix.mT * gain[:, None]) @ matrix
    return _multiply(kernel[(slice(None), *(None,) * (1 if dim == -3 else dims - 1))], x, dim)


def _dct_matrix(n: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II matrix, frequency x time."""
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _multiply(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Multiply a matrix with one of the last three dimensions."""
    if dim == -1:
        return x @ matrix.mT
    if dim == -2:
        return matrix @ x
    return (matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:])


def _scale(x: Tensor, dim: int) -> Tensor:
    """The factors of the un-normalised coefficients along a dimension."""
    n = x.shape[dim]
    scale = x.new_full((n,), math.sqrt(2 * n))
    scale[0] *= math.sqrt(2)
    return scale[(..., *(None,) * (-1 - dim))]


def fast_dct(x: Tensor, dim: int) -> Tensor:
    """Orthonormal DCT-II by one FFT of the same length (Makhoul, IEEE Trans. ASSP 28(1), 1980)."""
    x = x.movedim(dim, -1)
    spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1))
    return (spectrum * _twiddle(x)).real.movedim(-1, dim)


def fast_idct(coefficients: Tensor, dim: int) -> Tensor:
    """Invert :func:`fast_dct`."""
    y = coefficients.movedim(dim, -1)
    n = y.shape[-1]
    mirrored = torch.cat([torch.zeros_like(y[..., :1]), y[..., 1:].flip(-1)], -1)
    # The adjoint of a transform that is orthonormal on real signals.
    twiddle = _twiddle(y) * torch.cat([y.new_ones(1), y.new_full((n - 1,), 0.5)])
    x = torch.fft.fft(torch.complex(y, mirrored) * twiddle).real
    return torch.empty_like(y).index_copy(-1, _order(n, y.device), x).movedim(-1, dim)


def _twiddle(x: Tensor) -> Tensor:
    n = x.shape[-1]
    k = torch.arange(n, dtype=torch.float64, device="cpu")  # some devices have no float64
    factor = torch.polar(torch.full_like(k, math.sqrt(2 / n)), -math.pi / (2 * n) * k)
    factor[0] /= math.sqrt(2)
    return factor.to(torch.complex64 if x.dtype == torch.float32 else torch.complex128).to(x.device)


def _order(n: int, device: torch.device) -> Tensor:
    """The even places, then the odd ones backwards."""
    k = torch.arange(n, device=device)
    return torch.cat([k[::2], k[1::2].flip(0)])
