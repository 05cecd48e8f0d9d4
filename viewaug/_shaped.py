"""White noise, made of another range and another spectrum."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from viewaug._checks import is_number
from viewaug.perturbations.change import BANDS, band_of

_END = math.atanh(0.9)  # 90 % of white noise, whose tanh is uniform, lie between this, either way


def stretch(noise: Tensor, ranges: Sequence[Sequence[float]]) -> Tensor:
    """Stretch and shift white noise such that 90 % of the values of each entry lie in its range.

    Args:
        noise: ``(B, entries, *spatial)``.
        ranges: ``(low, high)`` of each entry.

    Examples:
        >>> stretch(torch.tensor([[-math.atanh(0.9), 0.0]]), [(1.0, 3.0), (-2.0, 0.0)])
        tensor([[ 1., -1.]])
    """
    low, high = noise.new_tensor(ranges)[(..., *(None,) * (noise.ndim - 2))].unbind(1)
    return torch.addcmul((low + high) / 2, (high - low) / (2 * _END), noise)


def colour(noise: Tensor, spectrum: Sequence[Sequence[float]]) -> Tensor:
    """Filter white noise such that its energy is spread over `BANDS` as a spectrum says; its variance stays.

    Args:
        noise: ``(B, maps, *spatial)``.
        spectrum: of each map, the share of each band; those that an input is too small for are left out.
    """
    size, dims = noise.shape[2:], tuple(range(2, noise.ndim))
    index = band_of(size).to(noise.device)
    counts = torch.bincount(index.flatten(), minlength=len(BANDS)).to(noise)
    shares = noise.new_tensor(spectrum) * (counts > 0)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(noise.dtype).tiny)
    gain = (shares * index.numel() / counts.clamp(min=1)).sqrt()[:, index]
    return torch.fft.ifftn(torch.fft.fftn(noise, dim=dims) * gain, dim=dims).real


def check_ranges(ranges: Any, maps: int, numbers: int) -> None:
    """Raise a ValueError unless there is a range for each map and each number."""
    if len(ranges) != maps + numbers:
        raise ValueError(f"Expected `ranges` of {maps} maps and {numbers} numbers, but got {len(ranges)}.")
    for pair in ranges:
        if not _are_numbers(pair, 2) or not -math.inf < pair[0] <= pair[1] < math.inf:
            raise ValueError(f"Expected each of `ranges` to be (low, high), but got {pair}.")


def check_spectrum(spectrum: Any, maps: int) -> None:
    """Raise a ValueError unless there is a spectrum for each map."""
    if len(spectrum) != maps:
        raise ValueError(f"Expected `spectrum` of {maps} maps, but got {len(spectrum)}.")
    for shares in spectrum:
        if not _are_numbers(shares, len(BANDS)) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
            raise ValueError(f"Expected each of `spectrum` to be shares of {len(BANDS)} bands, but got {shares}.")


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count and all(map(is_number, values))
