"""Hide parts of the input."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug._checks import check_count
from viewaug.perturbations.base import Needs, Perturbation, Raw


class Mask(Perturbation):
    """Fades patches, or bands, into the sample's mean of each channel.

    A soft form of random erasing (Zhong et al., AAAI 2020) and of the masks of SpecAugment (Park et al., Interspeech
    2019): each patch or band fades by ``|tanh|`` of the mean of its part of `raw`. Its random twin is either of these:
    half of the patches fade, or a quarter of the bands, most of them all but wholly.

    Args:
        patch: side of a patch, or width of a band, in pixels or samples.
        bands: whether to mask bands across the whole input, for a spectrogram of time and of frequency, instead of
            patches.

    Raises:
        ValueError: if `patch` is not positive.
    """

    def __init__(self, patch: int = 4, bands: bool = False) -> None:
        super().__init__()
        check_count("patch", patch)
        self.patch, self.bands = patch, bands

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=dims if self.bands else 1)

    def twin(self, noise: Raw) -> Raw:
        if not self.bands:
            return Raw(4 * self._repeat(noise.maps).relu(), noise.numbers)
        axes = range(2, noise.maps.ndim)
        lines = []
        for axis, field in zip(axes, noise.maps.split(1, 1), strict=True):
            for other in axes:
                field = field if other == axis else field.narrow(other, 0, 1)
            lines.append(self._repeat(field).expand(-1, -1, *noise.maps.shape[2:]))
        return Raw(4 * (torch.cat(lines, 1) - 0.5).relu(), noise.numbers)

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        axes = tuple(range(2, x.ndim))
        fields = raw.maps.split(1, 1)
        if self.bands:
            fields = tuple(
                field.mean([other for other in axes if other != axis], keepdim=True) if len(axes) > 1 else field
                for axis, field in zip(axes, fields, strict=True)
            )
        kept = reduce(lambda a, b: a * b, (1 - self._patches(field).tanh().abs() for field in fields))
        return (1 - kept) * (x.mean(axes, keepdim=True) - x)

    def _repeat(self, field: Tensor) -> Tensor:
        """Repeat the first value of each patch."""
        for dim in range(2, field.ndim):
            first = field.movedim(dim, -1)[..., :: self.patch].movedim(-1, dim)
            field = self._spread(first, dim, field.shape[dim])
        return field

    def _patches(self, field: Tensor) -> Tensor:
        """Replace a field by its mean over each patch."""
        size = field.shape[2:]
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(size) - 1]
        sides = [min(side, self.patch) for side in size]
        field = pool(field, sides, sides, ceil_mode=True)
        for dim, side in enumerate(size, start=2):
            field = self._spread(field, dim, side)
        return field

    def _spread(self, cells: Tensor, dim: int, side: int) -> Tensor:
        """Give each cell along a dimension of a given side the width of a patch."""
        patch = min(side, self.patch)
        return cells.repeat_interleave(patch, dim).narrow(dim, 0, side) if patch > 1 else cells
