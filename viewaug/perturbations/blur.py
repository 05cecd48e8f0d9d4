"""Blur the input."""

import math

import torch
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw
from viewaug.perturbations.change import axis_names
from viewaug.perturbations.spectral import scale_spectrum


class Blur(Perturbation):
    """Blurs by a Gaussian whose width along each axis is learned for each sample.

    It multiplies DCT coefficients by ``exp(-(sigma * omega)**2 / 2)``: any number of dimensions and any width at one
    price, an input that is mirrored at its edges, and no kernel to cut off.

    Its random twin is SimCLR's blur (Chen et al., ICML 2020): widths up to half of `sigma`, as a rule.

    Args:
        sigma: largest standard deviation of the Gaussian, in pixels or samples.

    Raises:
        ValueError: if `sigma` is not positive.
    """

    unitless = True

    def __init__(self, sigma: float = 4.0) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"Expected `sigma` to be positive and finite, but got {sigma}.")
        self.sigma = sigma

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=dims)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(numbers=0.5 * noise.numbers)

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        dims = x.ndim - 2
        for axis, sigma in enumerate((self.strength * self.sigma * raw.numbers.tanh()).unbind(1)):
            side = x.shape[2 + axis]
            omega = math.pi / side * torch.arange(side, dtype=x.dtype, device=x.device)
            x = scale_spectrum(x, (-0.5 * (sigma[:, None] * omega).square()).exp(), axis - dims)
        return x

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        sigma = (self.strength * self.sigma * raw.numbers.tanh()).abs()
        return {f"sigma {axis} [elements]": sigma[:, i] for i, axis in enumerate(axis_names(x.ndim - 2))}
