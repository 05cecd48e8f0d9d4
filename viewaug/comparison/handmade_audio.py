"""The hand-made augmentations of the papers for audio: of waveforms, and SpecAugment of spectrograms, by torchaudio."""

import torch
from torch import Tensor, nn
from torchaudio.functional import add_noise
from torchaudio.transforms import SpecAugment


def waveform_views(x: Tensor) -> Tensor:
    """Views of waveforms, ``(B, 1, T)``, drawn for each sample: a crop in place, a shift, a gain, and white noise.

    The crop keeps 8 to 100% and leaves silence around it, as in the papers' code; the shift is by at most a tenth, the
    gain within 6 dB, the noise 5 to 30 dB below.

    Examples:
        >>> waveform_views(torch.randn(4, 1, 4000)).shape
        torch.Size([4, 1, 4000])
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, device=x.device)

    length = x.shape[-1]
    place = torch.arange(length, device=x.device)
    size = uniform(0.08, 1.0) * length
    start = uniform(0.0, 1.0) * (length - size)
    kept = x[:, 0] * ((place >= start) & (place < start + size))
    shift = (uniform(-0.1, 0.1) * length).long()
    moved = kept.gather(1, (place - shift) % length)
    loud = moved * 10 ** (uniform(-6, 6) / 20)
    silent = loud.square().sum(1, keepdim=True) == 0  # has no ratio to noise
    noisy = add_noise(loud, torch.randn_like(loud), uniform(5, 30)[:, 0])
    return torch.where(silent, loud, noisy)[:, None]


class SpectralViews(nn.Module):
    """Views of normalised spectrograms, ``(B, 1, F, T)``: a masked band, a masked time, and noise of a quarter.

    A mask covers at most 40 of 64 bins, as in the papers' code, or as large a share of other sizes.

    Args:
        bands: of the spectrogram.
        frames: of the spectrogram.
        share: of either that a mask covers at most.
        noise: deviation of the noise.

    Examples:
        >>> SpectralViews(40, 33)(torch.randn(2, 1, 40, 33)).shape
        torch.Size([2, 1, 40, 33])
    """

    def __init__(self, bands: int, frames: int, share: float = 40 / 64, noise: float = 0.25) -> None:
        super().__init__()
        self.noise = noise
        self.masks = SpecAugment(1, round(frames * share), 1, round(bands * share), zero_masking=True)

    def forward(self, x: Tensor) -> Tensor:
        masked: Tensor = self.masks(x)
        return masked + self.noise * torch.randn_like(x)
