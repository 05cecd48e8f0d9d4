"""Change the frequency response of a waveform."""

import math

import torch
from torch import Tensor

from viewaug._checks import check_count
from viewaug.perturbations.base import Needs, Perturbation, Raw, decibels


class Filter(Perturbation):
    """Multiplies the spectrum of each channel by a magnitude between 1/4 and 4, which is 12 dB either way.

    The filter has zero phase and goes round the ends, as a product of Fourier transforms does.

    Its random twin is FilterAugment (Nam et al., ICASSP 2022): a random response of some 6 dB either way.

    Args:
        bands: frequencies, evenly spaced from 0 to Nyquist's, at which the magnitude is free; in between its logarithm
            is interpolated linearly.

    Raises:
        ValueError: if `bands` is not at least 2.
    """

    dims = (1,)
    unitless = True

    def __init__(self, bands: int = 16) -> None:
        super().__init__()
        check_count("bands", bands, 2)
        self.bands = bands

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=channels * self.bands)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(numbers=0.5 * noise.numbers)

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        magnitudes = self._logarithms(raw)
        place = 2 * (self.bands - 1) * torch.fft.rfftfreq(x.shape[-1], dtype=x.dtype, device=x.device)
        below = place.long().clamp(max=self.bands - 2)
        response = torch.lerp(magnitudes[..., below], magnitudes[..., below + 1], place - below).expm1()
        return torch.fft.irfft(torch.fft.rfft(x) * response, x.shape[-1])

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        each = decibels(self._logarithms(raw)).mean(1).unbind(1)  # of all channels
        return {f"at {i / (self.bands - 1):.2f} of Nyquist [dB]": value for i, value in enumerate(each)}

    def _logarithms(self, raw: Raw) -> Tensor:
        """Return the logarithm of the magnitude of each channel and band."""
        return self.strength * math.log(4) * raw.numbers.tanh().unflatten(1, (-1, self.bands))
