"""Change the frequency response of a waveform."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw


class Filter(Perturbation):
    """Multiplies the spectrum of each channel by a magnitude between 1/4 and 4, which is 12 dB either way.

    The filter has zero phase and goes round the ends, as a product of Fourier transforms does.

    Args:
        bands: frequencies, evenly spaced from 0 to Nyquist's, at which the magnitude is free; in between its logarithm
            is interpolated linearly.

    Raises:
        ValueError: if `bands` is not at least 2.
    """

    dims = (1,)

    def __init__(self, bands: int = 16) -> None:
        super().__init__()
        if bands < 2:
            raise ValueError(f"Expected `bands` to be at least 2, but got {bands}.")
        self.bands = bands

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=channels * self.bands)

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        spectrum = torch.fft.rfft(x)
        magnitudes = math.log(4) * raw.numbers.tanh().unflatten(1, (-1, self.bands))
        response = F.interpolate(magnitudes, spectrum.shape[-1], mode="linear", align_corners=True).expm1()
        return torch.fft.irfft(spectrum * response, x.shape[-1])
