"""The discrete cosine transform, against SciPy's."""

import pytest
import scipy.fft
import torch

from viewaug.perturbations.spectral import dct, idct


@pytest.mark.parametrize("norm", ["ortho", None])
@pytest.mark.parametrize("size", [(1,), (7,), (8, 5), (3, 4, 5)])
def test_agrees_with_scipy(size, norm):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = tuple(range(-len(size), 0))
    coefficients = dct(x, len(size), norm)
    expected = scipy.fft.dctn(x.numpy(), axes=axes, norm=norm)
    torch.testing.assert_close(coefficients, torch.from_numpy(expected))
    torch.testing.assert_close(idct(coefficients, len(size), norm), x)
