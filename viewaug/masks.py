"""What of an input may change, and its statistics there."""

import torch
from torch import Tensor


def within_lengths(x: Tensor, lengths: Tensor, where: Tensor | None = None) -> Tensor:
    """Return a mask of where there is no padding, and `where` says."""
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.shape != (len(x),):
        got = tuple(lengths.shape) if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ValueError(f"Expected `lengths` to be a tensor of {len(x)} integers, by sample, but got {got}.")
    if not lengths.is_meta and len(x) and not bool(((lengths > 0) & (lengths <= x.shape[-1])).all()):
        raise ValueError(f"Expected `lengths` from 1 to {x.shape[-1]}, those of `x`, but got {lengths.tolist()}.")
    inside = torch.arange(x.shape[-1], device=x.device) < lengths.to(x.device)[:, None]
    inside = inside.reshape(len(x), *(1,) * (x.ndim - 2), -1).expand(len(x), 1, *x.shape[2:])
    return inside if where is None else where * inside


def full_mask(x: Tensor, where: Tensor) -> Tensor:
    """Return a mask in the dtype and of the shape of the input."""
    if not isinstance(where, Tensor):
        raise TypeError(f"Expected `where` to be a tensor, but got {type(where).__name__}.")
    fits = where.ndim == x.ndim and all(a in (1, b) for a, b in zip(where.shape[:2], x.shape[:2], strict=True))
    if not fits or where.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"Expected `where` to have the shape ({len(x)} or 1, {x.shape[1]} or 1, *{tuple(x.shape[2:])}), "
            f"but got {tuple(where.shape)}."
        )
    keep = where.to(x.device, x.dtype).expand_as(x)
    if not keep.is_meta and keep.numel() and not bool(((keep >= 0) & (keep <= 1)).all()):
        raise ValueError("Expected `where` to be boolean, or between 0 and 1.")
    return keep


def mask_of(x: Tensor, where: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Return a mask of the shape of the input, or None where everything may change."""
    if lengths is not None:
        where = within_lengths(x, lengths, where)
    return None if where is None else full_mask(x, where)


def moments(x: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of every sample, ``(B, 1, ...)``, of what a boolean mask keeps.

    The deviation is at least a millionth of the largest value, below which there is nothing but rounding in float32.
    """
    dims = tuple(range(1, x.ndim))
    peak = x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-30)
    relative = x / peak  # whose square neither overflows nor vanishes
    if kept is None:
        mean = relative.mean(dims, keepdim=True)
        variance = (relative - mean).square().mean(dims, keepdim=True)
    else:
        share = kept.to(x.dtype)
        count = share.sum(dims, keepdim=True).clamp(min=1)
        mean = (relative * share).sum(dims, keepdim=True) / count
        variance = ((relative - mean).square() * share).sum(dims, keepdim=True) / count
    return peak * mean, peak * variance.clamp(min=1e-12).sqrt()


def fill(x: Tensor, kept: Tensor) -> Tensor:
    """Put the mean of each channel of a sample where it is spared, so that what is there, also NaN, spreads nowhere."""
    dims = tuple(range(2, x.ndim))
    known = torch.where(kept, x, 0)
    mean = known.sum(dims, keepdim=True) / kept.to(x.dtype).sum(dims, keepdim=True).clamp(min=1)
    return torch.where(kept, x, mean)


def standardise(x: Tensor, shift: float | Tensor, scale: float | Tensor) -> Tensor:
    """Subtract and divide, where there is anything to."""
    if not isinstance(shift, float) or shift:
        x = x - shift
    return x if isinstance(scale, float) and scale == 1 else x / scale
