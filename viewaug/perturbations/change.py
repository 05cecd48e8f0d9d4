"""What any change of a signal is, in numbers per sample: its size, its frequencies, its place, its channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Bands of radial frequencies, in shares of the Nyquist frequency: what is constant, and between powers of two.
BANDS = ("constant", "to 1/8 of Nyquist", "1/8 to 1/4 of Nyquist", "1/4 to 1/2 of Nyquist", "from 1/2 of Nyquist")
_EDGES = (0.0, 0.125, 0.25, 0.5)
_MOST = 12  # channels that are told apart


def axis_names(dims: int) -> str:
    """Return a letter for each spatial axis, in their order: T; H, W; or D, H, W."""
    return "T" if dims == 1 else "DHW"[3 - dims :]


def measure(change: Tensor) -> dict[str, Tensor]:
    """Measure a change, such as view - input.

    Args:
        change: ``(B, C, *spatial)``.

    Returns:
        Numbers per sample, ``(B,)``, by names that end in their units: the mean size; the share of the energy by
        radial frequency, of a Fourier transform over all spatial axes; the share of the size in the middle half of
        each axis, where evenly spread change has ``1 / 2**dims``; and of several channels the share of each. Shares of
        no change are 0.

    Examples:
        >>> found = measure(torch.ones(1, 1, 64))
        >>> round(found["energy, constant [share]"].item(), 3)
        1.0
        >>> round(found["in the middle half [share]"].item(), 3)
        0.5
    """
    size = change.abs()
    total = size.flatten(1).sum(1).clamp(min=torch.finfo(size.dtype).tiny)
    found = {"mean change [units of x]": size.flatten(1).mean(1)}
    energy = band_energy(change).sum(1)
    shares = energy / energy.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    found |= {f"energy, {band} [share]": share for band, share in zip(BANDS, shares.unbind(1), strict=True)}
    found["in the middle half [share]"] = middle(size).flatten(1).sum(1) / total
    if 1 < change.shape[1] <= _MOST:
        each = size.flatten(2).sum(2) / total[:, None]
        found |= {f"channel {i} [share]": share for i, share in enumerate(each.unbind(1))}
    return found


def band_energy(x: Tensor) -> Tensor:
    """Return the energy of each channel in each of `BANDS`, ``(B, C, bands)``, by a Fourier transform over all axes."""
    power = torch.fft.fftn(x, dim=tuple(range(2, x.ndim))).abs().square() / x[0, 0].numel()
    index = band_of(x.shape[2:]).to(x.device).flatten()
    return power.new_zeros(*x.shape[:2], len(BANDS)).index_add_(2, index, power.flatten(2))


def band_of(size: Sequence[int]) -> Tensor:
    """Return the band of each frequency of a Fourier transform of a spatial size."""
    axes = torch.meshgrid(*(2 * torch.fft.fftfreq(side) for side in size), indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()
    return torch.bucketize(radius, torch.tensor(_EDGES))


def middle(x: Tensor) -> Tensor:
    """Return the middle half of each spatial axis; all of one that is shorter than two."""
    for axis, side in enumerate(x.shape[2:], 2):
        half = max(1, side // 2)
        x = x.narrow(axis, (side - half) // 2, half)
    return x
