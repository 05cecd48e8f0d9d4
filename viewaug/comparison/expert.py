"""What an expert would take for each kind of data, by one strength, 1 for what the papers have."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from viewaug.comparison.handmade import simclr_pipeline
from viewaug.viewmaker import Viewmaker

Augment = Callable[[Tensor], Tensor]


class Expert(NamedTuple):
    """Augmentations by hand.

    Attributes:
        build: makes them for a kind of data and a strength.
        swept: whether the strength counts.
    """

    build: Callable[[Any, float], Augment]
    swept: bool = True


def simclr(kind: Any, strength: float = 1.0) -> Augment:
    """SimCLR's crop, flip, colour, grayscale and blur of images (Chen et al., ICML 2020); a channel alone, of light."""
    if kind.dims != 2 or kind.value_range is None or kind.channels not in (1, 3):
        raise ValueError("Expected images of 1 or 3 channels with a `value_range` for the expert simclr.")
    low, high = kind.value_range
    pipeline = simclr_pipeline(kind.size, strength, colour=kind.channels == 3)
    return lambda x: low + (high - low) * pipeline((x - low) / (high - low))


def specaugment(kind: Any, strength: float = 1.0) -> Augment:
    """SpecAugment of spectrograms (Park et al., Interspeech 2019), and noise."""
    if kind.dims != 2:
        raise ValueError("Expected spectrograms, of 2 dims, for the expert specaugment.")
    from viewaug.comparison.handmade_audio import SpectralViews

    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (kind.mean, kind.std))
    views = SpectralViews(kind.size[0], kind.size[1], min(1.0, strength * 40 / 64), 0.25 * strength)
    return lambda x: views((x - mean.to(x)) / std.to(x)) * std.to(x) + mean.to(x)


def waveform(kind: Any, strength: float = 1.0) -> Augment:
    """Crop, shift, gain and noise of waveforms, as the papers have."""
    if kind.dims != 1 or kind.channels != 1:
        raise ValueError("Expected waveforms of one channel for the expert waveform.")
    from viewaug.comparison.handmade_audio import waveform_views

    return waveform_views


def sensors(kind: Any, strength: float = 1.0, pieces: int = 4) -> Augment:
    """Jitter, scaling, rotation and permutation of sensors (Um et al., ICMI 2017).

    In standard deviations: jitter of 0.1, a factor of each channel around 1 with a deviation of 0.2, where there are
    triples of axes one rotation of all by up to 60 degrees, and four pieces in another order.
    """
    if kind.dims != 1:
        raise ValueError("Expected series, of 1 dim, for the expert sensors.")
    mean, std = (torch.tensor(part).view(-1, 1) for part in (kind.mean, kind.std))
    turn = None
    if kind.channels % 3 == 0:
        rotation = {"name": "channels", "drop": 0.0, "exchange": 0.0, "rotate": min(180.0, 60 * strength)}
        turn = Viewmaker(
            kind.channels,
            dims=1,
            generator="random",
            budget=None,
            value_range=None,
            perturbation=rotation | {"triples": True},
        )

    def make(x: Tensor) -> Tensor:
        z = (x - mean.to(x)) / std.to(x)
        z = z * (1 + 0.2 * strength * torch.randn(*z.shape[:2], 1, device=z.device))
        z = turn(z) if turn is not None else z
        z = z + 0.1 * strength * torch.randn_like(z)
        length = z.shape[2] // pieces * pieces
        if length:
            order = torch.rand(len(z), pieces, device=z.device).argsort(1)
            cut = z[..., :length].unflatten(2, (pieces, -1))
            moved = cut.gather(2, order[:, None, :, None].expand_as(cut)).flatten(2)
            z = torch.cat([moved, z[..., length:]], 2)
        return z * std.to(x) + mean.to(x)

    return make


EXPERTS = {
    "simclr": Expert(simclr),
    "specaugment": Expert(specaugment),
    "waveform": Expert(waveform, swept=False),
    "sensors": Expert(sensors),
}


def default_expert(kind: Any) -> str | None:
    """Return the expert of a kind of data: images with a value range, other maps, or series."""
    if kind.dims == 1:
        return "sensors"
    if kind.dims == 2 and kind.value_range is not None and kind.channels in (1, 3):
        return "simclr"
    return "specaugment" if kind.dims == 2 and kind.value_range is None else None
