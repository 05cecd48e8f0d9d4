"""The networks that make a raw perturbation out of an input and noise: a fast one, and the original one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewaug.perturbations import Raw

_CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Shapes = tuple[tuple[int, ...], ...]


class Generator(nn.Module, ABC):
    """A network from an input and a tuple of noise tensors to what a perturbation needs.

    That is `maps` dense maps of the input's spatial size, and `numbers` numbers per sample; it has a head for either,
    if there are any. A subclass defines :meth:`forward` and :meth:`noise_shapes`; its first arguments are those of
    :class:`FastGenerator`.
    """

    #: smallest side of an input
    smallest = 1

    @abstractmethod
    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        """Return the shapes, without the batch dimension, of the noise for an input of a spatial size."""

    @abstractmethod
    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        """Return maps, ``(B, maps, *spatial)``, and numbers, ``(B, numbers)``."""


class FastGenerator(Generator):
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
        conv = _CONV[dims]
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
        h = self.stem(F.pad(x, [pad for side in reversed(size) for pad in (0, -side % self.patch)]))
        for block, field, numbers in zip(self.blocks, noise[::2], noise[1::2], strict=True):
            h = block(h, field, numbers)
        h = F.leaky_relu(h, 0.1)
        maps = None
        if self.head is not None:
            # Shuffling returns to the format of the input, so that the arithmetic that follows meets one format alone.
            shuffle = F.pixel_shuffle if _is_channels_last(x) else _shuffle
            maps = _crop(shuffle(self.head(h), self.patch), size)
        # Means over a grid vary little with its noise, so that the numbers see that of the whole sample once more.
        return _raw(x, maps, h, self.numbers_head, [_standardise(numbers) for numbers in noise[1::2]])

    def extra_repr(self) -> str:
        return f"patch={self.patch}, noise={self.noise}"


class _NoisyBlock(nn.Module):
    """``h + conv(act(conv(act(h)) + noise))``."""

    def __init__(self, width: int, noise: int, dims: int) -> None:
        super().__init__()
        conv = _CONV[dims]
        self.conv1 = conv(width, width, 3, padding=1)
        self.field = conv(noise, width, 1, bias=False)
        self.numbers = nn.Linear(noise, width, bias=False)
        self.conv2 = conv(width, width, 3, padding=1)

    def forward(self, h: Tensor, field: Tensor, numbers: Tensor) -> Tensor:
        field, numbers = _standardise(field), _standardise(numbers)
        shift = self.numbers(numbers)[(..., *(None,) * (h.ndim - 2))]
        mixed = self.conv1(F.leaky_relu(h, 0.1)).add_(self.field(field)).add_(shift)
        return self.conv2(F.leaky_relu(mixed, 0.1, inplace=True)).add_(h)


class ReferenceGenerator(Generator):
    """The network of Viewmaker Networks (Tamkin et al., ICLR 2021), layer by layer.

    It descends from the image transformation network of Johnson et al. (ECCV 2016). Noise enters as one more channel
    at the input and before every residual block. Other than in the authors' code the input need not be square,
    nor its sides multiples of 4, and residual blocks that are not used are not built.

    Args:
        channels: channels of the input.
        maps: dense maps to make.
        dims: number of spatial dimensions; only 2.
        numbers: numbers per sample to make, which the original does not: by a linear layer on the means of what the
            last block returns and on as many numbers of noise.
        blocks: number of residual blocks.

    Shape:
        - x: ``(B, channels, H, W)``, with sides of at least 5 (reflection padding).
        - Output: ``(B, maps, H, W)`` and ``(B, numbers)``.
        - noise: ``(B, 1, H, W)``, then for each block ``(B, 1, ceil(H / 4), ceil(W / 4))``, and ``(B, numbers)`` if
          there are any.
    """

    smallest = 5

    def __init__(self, channels: int, maps: int, dims: int, numbers: int = 0, *, blocks: int = 3) -> None:
        super().__init__()
        if dims != 2:
            raise ValueError(f"Expected `dims` to be 2 for the reference generator, but got {dims}.")
        self.down = nn.Sequential(
            _ConvNorm(channels + 1, 32, 9), _ConvNorm(32, 64, 3, stride=2), _ConvNorm(64, 128, 3, stride=2)
        )
        self.blocks = nn.ModuleList(_ReferenceBlock(128 + i + 1) for i in range(blocks))
        if maps:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2),
                _ConvNorm(128 + blocks, 64, 3),
                nn.Upsample(scale_factor=2),
                _ConvNorm(64, 32, 3),
            )
            self.head = nn.Conv2d(32, maps, 9, padding=4, padding_mode="reflect")
        self.maps = maps
        self.numbers_head = nn.Linear(128 + blocks + numbers, numbers) if numbers else None

    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        coarse = tuple(-(-side // 4) for side in size)
        numbers = () if self.numbers_head is None else ((self.numbers_head.out_features,),)
        return ((1, *size), *((1, *coarse) for _ in self.blocks), *numbers)

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        h = self.down(torch.cat([x, noise[0]], 1))
        for block, field in zip(self.blocks, noise[1:], strict=False):
            h = block(torch.cat([h, field], 1))
        maps = _crop(self.head(self.up(h)), x.shape[2:]) if self.maps else None
        return _raw(x, maps, h, self.numbers_head, [_standardise(field) for field in noise[1 + len(self.blocks) :]])

    def extra_repr(self) -> str:
        return f"blocks={len(self.blocks)}"


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(width, affine=True)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.act else x


class _ReferenceBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(width, width, 3)
        self.conv2 = _ConvNorm(width, width, 3, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def _raw(
    x: Tensor, maps: Tensor | None, h: Tensor, numbers_head: nn.Linear | None, noise: Sequence[Tensor] = ()
) -> Raw:
    """Put maps together with numbers, made of the means of `h` and noise; what nobody needs is empty."""
    return Raw(
        x.new_empty(len(x), 0, *x.shape[2:]) if maps is None else maps,
        x.new_empty(len(x), 0) if numbers_head is None else numbers_head(torch.cat([h.flatten(2).mean(2), *noise], 1)),
    )


def _standardise(noise: Tensor) -> Tensor:
    """Uniform noise in [0, 1), made of mean 0 and variance 1."""
    return (noise - 0.5) * math.sqrt(12)


def _shuffle(x: Tensor, patch: int) -> Tensor:
    """``pixel_shuffle`` for any number of spatial dimensions, to a contiguous tensor."""
    dims = x.ndim - 2
    x = x.unflatten(1, (-1, *(patch,) * dims))  # (B, C, p.., g..)
    order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]
    x = x.permute(0, 1, *order)
    return x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * patch for i in range(dims)))


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _crop(x: Tensor, size: Sequence[int]) -> Tensor:
    for dim, side in enumerate(size, start=2):
        if x.shape[dim] != side:
            x = x.narrow(dim, 0, side)
    return x


GENERATORS: dict[str, type[Generator]] = {"fast": FastGenerator, "reference": ReferenceGenerator}
