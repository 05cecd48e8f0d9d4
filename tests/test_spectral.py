"""The discrete cosine transform, against SciPy's, and the band of a spectral perturbation."""

import numpy as np
import pytest
import scipy.fft
import torch

from viewaug import Viewmaker
from viewaug.perturbations.spectral import dct, idct


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["ortho", None])
@pytest.mark.parametrize(
    "size",
    [(1,), (7,), (511,), (512,), (513,), (1001,), (8, 5), (3, 512), (513, 4), (3, 4, 5), (2, 513, 3), (512, 2, 3)],
)
def test_agrees_with_scipy(size, norm):
    x = noise(2, 3, *size)
    axes = tuple(range(-len(size), 0))
    coefficients = dct(x, len(size), norm)
    expected = scipy.fft.dctn(x.numpy(), axes=axes, norm=norm)
    torch.testing.assert_close(coefficients, torch.from_numpy(expected))
    torch.testing.assert_close(idct(coefficients, len(size), norm), x)
    expected = scipy.fft.idctn(x.numpy(), axes=axes, norm=norm)
    torch.testing.assert_close(idct(x, len(size), norm), torch.from_numpy(expected))


@pytest.mark.parametrize("size", [512, 1001, 16000])
def test_single_precision(size):
    x = noise(2, size, dtype=torch.float32)
    expected = scipy.fft.dct(x.double().numpy(), norm="ortho")
    assert dct(x, 1).dtype == idct(x, 1).dtype == torch.float32
    np.testing.assert_allclose(dct(x, 1).numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(idct(dct(x, 1), 1).numpy(), x.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["ortho", None])
@pytest.mark.parametrize("transform", [dct, idct])
@pytest.mark.parametrize("size", [(5,), (512,), (513,), (2, 513)])
def test_gradient(size, transform, norm):
    x = noise(2, *size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform(x, len(size), norm), x, fast_mode=True)


@pytest.mark.parametrize("transform", [dct, idct])
@pytest.mark.parametrize("size", [7, 513])
def test_gradient_is_the_inverse(size, transform):
    x, y = noise(1, size).requires_grad_(), noise(2, size)[1:]
    transform(x, 1).backward(y)  # orthonormal
    inverse = {dct: scipy.fft.idct, idct: scipy.fft.dct}[transform]
    np.testing.assert_allclose(x.grad.numpy(), inverse(y.numpy(), norm="ortho"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(20,), (10, 24), (600,), (4, 8, 5)])
@pytest.mark.parametrize("band", [(0.0, 0.5), (0.25, 0.75), (0.3, 1.0)])
@pytest.mark.parametrize("norm", ["ortho", None])
def test_band(size, band, norm):
    viewmaker = Viewmaker(
        1, dims=len(size), perturbation={"name": "spectral", "norm": norm, "band": band}, value_range=None, budget=0.1
    ).double()
    x = noise(2, 1, *size)
    change = scipy.fft.dctn((viewmaker(x) - x).detach().numpy(), axes=range(2, x.ndim), norm="ortho")
    np.testing.assert_allclose(np.abs((viewmaker(x) - x).detach().numpy()).mean(tuple(range(1, x.ndim))), 0.1)
    frequency = np.max(np.meshgrid(*(np.arange(side) / side for side in size), indexing="ij"), axis=0)
    inside = (frequency >= band[0]) & (frequency <= band[1])
    assert 0 < inside.sum() < inside.size
    assert np.abs(change[:, 0, inside]).min() > 1e-6
    assert np.abs(change[:, 0, ~inside]).max() < 1e-12
