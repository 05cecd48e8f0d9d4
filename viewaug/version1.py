"""The networks of format version 1, which viewaug 0.1 wrote; only loading such a file builds them."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewaug.generators import (
    CONV,
    Generator,
    ReferenceGenerator,
    Shapes,
    crop,
    is_channels_last,
    make_raw,
    pad_to,
    shuffle,
    standardise,
)
from viewaug.originals import OriginalViewmaker
from viewaug.perturbations import PERTURBATIONS, Needs, Perturbation, Raw


class PatchGenerator(Generator):
    """A residual network on patches, with fresh noise in every block.

    A strided convolution turns the input into a coarse grid, residual blocks work there, and a pixel shuffle returns
    to full resolution. Each block gets its own noise: a field over the grid, which varies the view from place to
    place, and a few numbers per sample, which vary it as a whole, so that views can differ in *what* they change.
    There is no normalisation layer, hence no statistic of an image or a batch, and any size down to 1 will do.

    Args:
        channels: channels of the input.
        maps: dense maps to make.
        dims: number of spatial dimensions, 1, 2 or 3.
        numbers: numbers per sample to make.
        width: channels on the grid.
        depth: number of residual blocks.
        patch: side of a patch.
        noise: channels of the noise, of the field and of the numbers alike.

    Shape:
        - x: ``(B, channels, *spatial)``.
        - Output: ``(B, maps, *spatial)`` and ``(B, numbers)``.
        - noise: for each block, ``(B, noise, *grid)`` and ``(B, noise)``.
    """

    def __init__(
        self,
        channels: int,
        maps: int,
        dims: int,
        numbers: int = 0,
        *,
        width: int = 32,
        depth: int = 2,
        patch: int = 4,
        noise: int = 4,
    ) -> None:
        super().__init__()
        self.patch, self.noise = patch, noise
        conv = CONV[dims]
        self.stem = conv(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(_NoisyBlock(width, noise, dims) for _ in range(depth))
        self.head = conv(width, maps * patch**dims, 1) if maps else None
        self.numbers_head = nn.Linear(width + depth * noise, numbers) if numbers else None
        if dims == 2:
            self.to(memory_format=torch.channels_last)  # faster convolutions, whatever the format of the input

    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        grid = tuple(-(-side // self.patch) for side in size)  # rounded up
        return ((self.noise, *grid), (self.noise,)) * len(self.blocks)

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        size = x.shape[2:]
        h = self.stem(pad_to(x, self.patch))
        for block, field, numbers in zip(self.blocks, noise[::2], noise[1::2], strict=True):
            h = block(h, field, numbers)
        h = F.leaky_relu(h, 0.1)
        maps = None
        if self.head is not None:
            # Shuffling returns to the format of the input, so that the arithmetic that follows meets one format alone.
            maps = crop(shuffle(self.head(h), self.patch, is_channels_last(x)), size)
        # Means over a grid vary little with its noise, so that the numbers see that of the whole sample once more.
        return make_raw(x, maps, h, self.numbers_head, [standardise(numbers) for numbers in noise[1::2]])

    def extra_repr(self) -> str:
        return f"patch={self.patch}, noise={self.noise}"


class _NoisyBlock(nn.Module):
    """``h + conv(act(conv(act(h)) + noise))``."""

    def __init__(self, width: int, noise: int, dims: int) -> None:
        super().__init__()
        conv = CONV[dims]
        self.conv1 = conv(width, width, 3, padding=1)
        self.field = conv(noise, width, 1, bias=False)
        self.numbers = nn.Linear(noise, width, bias=False)
        self.conv2 = conv(width, width, 3, padding=1)

    def forward(self, h: Tensor, field: Tensor, numbers: Tensor) -> Tensor:
        field, numbers = standardise(field), standardise(numbers)
        shift = self.numbers(numbers)[(..., *(None,) * (h.ndim - 2))]
        mixed = self.conv1(F.leaky_relu(h, 0.1)).add_(self.field(field)).add_(shift)
        return self.conv2(F.leaky_relu(mixed, 0.1, inplace=True)).add_(h)


class FadingMask(Perturbation):
    """Fades patches, or bands across the whole input, into the sample's mean of each channel, by ``|tanh|`` of `raw`.

    Args:
        patch: side of a patch, or width of a band, in pixels or samples.
        bands: whether to mask bands.
    """

    def __init__(self, patch: int = 4, bands: bool = False) -> None:
        super().__init__()
        self.patch, self.bands = patch, bands

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=dims if self.bands else 1)

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


class Viewmaker1(OriginalViewmaker):
    """A viewmaker of format version 1: its generator sees the input as it is, in whatever units."""

    generators: ClassVar[dict[str, type[Generator]]] = {"fast": PatchGenerator, "reference": ReferenceGenerator}
    perturbations: ClassVar[Mapping[str, type[Perturbation]]] = ChainMap({"mask": FadingMask}, PERTURBATIONS)
    version = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, units="raw", **options)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this viewmaker."""
        return {name: value for name, value in super().config.items() if name not in ("units", "strength")}
