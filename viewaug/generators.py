"""What makes a raw perturbation out of an input and noise: noise alone, a fast network, and the original one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewaug._checks import check_choice, check_count, is_number
from viewaug._shaped import check_ranges, check_spectrum, colour, stretch
from viewaug.budget import widen
from viewaug.perturbations import Raw
from viewaug.perturbations.base import white

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

_MEAN_SIZE = math.log(2)  # of white noise whose tanh is uniform
Shapes = tuple[tuple[int, ...], ...]


class Generator(nn.Module, ABC):
    """A network from an input and a tuple of noise tensors to what a perturbation needs.

    That is `maps` dense maps of the input's spatial size, and `numbers` numbers per sample; it has a head for either,
    if there are any. A subclass defines :meth:`forward` and :meth:`noise_shapes`; its first arguments are those of
    :class:`RandomGenerator`.
    """

    #: smallest side of an input
    smallest = 1
    #: whether it makes noise, for a perturbation's random twin, instead of a raw output
    from_noise = False
    #: whether it sees of an input only its shape
    blind = False

    @abstractmethod
    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        """Return the shapes, without the batch dimension, of the noise for an input of a spatial size."""

    @abstractmethod
    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        """Return maps, ``(B, maps, *spatial)``, and numbers, ``(B, numbers)``."""


class RandomGenerator(Generator):
    """No network: white noise, which a perturbation's random twin turns into a raw output.

    Args:
        channels: channels of the input.
        maps: dense maps to make.
        dims: number of spatial dimensions, 1, 2 or 3.
        numbers: numbers per sample to make.
        ranges: for each map, and then for each number, where 90 % of its values lie, ``(low, high)``, as
            :func:`viewaug.distil` finds it; None for that of white noise, -1.47 to 1.47, from which the values of
            others are stretched and shifted.
        spectrum: for each map, how its energy is spread over :data:`viewaug.perturbations.change.BANDS`, from which
            noise that is not white is filtered; None for white noise.

    Raises:
        ValueError: if there are not as many `ranges` or spectra, or one is no range or no spectrum.

    Shape:
        - x: ``(B, channels, *spatial)``.
        - Output: ``(B, maps, *spatial)`` and ``(B, numbers)``, of independent entries whose tanh is uniform in (-1, 1).
        - noise: ``(B, maps, *spatial)`` and ``(B, numbers)``, of which there are any.
    """

    from_noise = True
    blind = True

    def __init__(
        self,
        channels: int,
        maps: int,
        dims: int,
        numbers: int = 0,
        *,
        ranges: Sequence[tuple[float, float]] | None = None,
        spectrum: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.maps, self.numbers, self.ranges, self.spectrum = maps, numbers, ranges, spectrum
        if ranges is not None:
            check_ranges(ranges, maps, numbers)
        if spectrum is not None:
            check_spectrum(spectrum, maps)

    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        return (((self.maps, *size),) if self.maps else ()) + (((self.numbers,),) if self.numbers else ())

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        parts = [white(widen(part)) for part in noise]
        if self.spectrum and self.maps:
            parts[0] = colour(parts[0], self.spectrum)
        if self.ranges:
            ends = [self.ranges[: self.maps], self.ranges[self.maps :]]
            parts = [stretch(part, pairs) for part, pairs in zip(parts, filter(len, ends), strict=True)]
        maps = parts[0] if self.maps else x.new_empty(x.shape[0], 0, *x.shape[2:])
        return Raw(maps, parts[-1] if self.numbers else x.new_empty(x.shape[0], 0))


class FastGenerator(RandomGenerator):
    """White noise as :class:`RandomGenerator`'s, and what is learned, a departure from it, added.

    A strided convolution turns the input into a coarse grid, to which noise of its own is added, a field and a few
    numbers per sample, so that departures differ from view to view, too; residual blocks work there. Two things return
    to full resolution, neither of which leaves a trace of the grid: linear interpolation, and learned patterns of two
    cells' width, windowed and overlapped, of what differs between cells. There is no normalisation layer, hence no
    statistic of a batch, and any size down to 1 will do.

    The departure is independent of the white noise and bounded: in maps, the mean of its size over a sample is at most
    `departure` times that of the noise, and so is each of the numbers. The mean difference of two views' raw outputs
    therefore stays above that of the noise, and diversity, that difference as a share of the mean size, above
    ``1 / (1 + departure)`` times that of noise alone, whatever is learned.

    Args:
        channels: channels of the input.
        maps: dense maps to make.
        dims: number of spatial dimensions, 1, 2 or 3.
        numbers: numbers per sample to make.
        width: channels on the grid.
        depth: number of residual blocks.
        patch: side of a cell of the grid.
        noise: channels of the departure's own noise, of the field and of the numbers alike.
        departure: largest mean size of the departure, as a multiple of that of the noise.

    Shape:
        - x: ``(B, channels, *spatial)``.
        - Output: ``(B, maps, *spatial)`` and ``(B, numbers)``.
        - noise: as of :class:`RandomGenerator`, then ``(B, noise, *grid)`` and ``(B, noise)``.
    """

    blind = False
    ramp: Tensor
    window: Tensor
    map_weights: Tensor | None
    number_weights: Tensor | None

    def __init__(
        self,
        channels: int,
        maps: int,
        dims: int,
        numbers: int = 0,
        *,
        width: int = 24,
        depth: int = 2,
        patch: int = 4,
        noise: int = 4,
        departure: float = 3.0,
    ) -> None:
        super().__init__(channels, maps, dims, numbers)
        for name, value in (("width", width), ("depth", depth), ("patch", patch), ("noise", noise)):
            check_count(name, value)
        if not is_number(departure):
            raise TypeError(f"Expected `departure` to be a float, but got {type(departure).__name__}.")
        if not 0 < departure < math.inf:
            raise ValueError(f"Expected `departure` to be positive and finite, but got {departure}.")
        self.patch, self.noise, self.departure = patch, noise, float(departure)
        conv = CONV[dims]
        self.stem = conv(channels, width, patch, stride=patch)
        self.field = conv(noise, width, 1, bias=False)
        self.sample = nn.Linear(noise, width, bias=False)
        self.blocks = nn.ModuleList(_Block(width, dims) for _ in range(depth))
        self.register_buffer("map_weights", None)
        self.register_buffer("number_weights", None)
        heads: list[nn.Module] = []
        if maps:
            self.head = conv(width, maps, 1)
            self.patterns = conv(width, maps * patch**dims, 2, padding=1, bias=False)
            line = _line(patch)
            self.register_buffer("ramp", _product(line, dims), persistent=False)
            window = _product((line * (math.pi / 2)).sin().square(), dims).repeat(maps, *(1,) * (dims + 1))
            self.register_buffer("window", window, persistent=False)
            heads += [self.head, self.patterns]
        if numbers:
            self.numbers_head = nn.Linear(width + noise, numbers)
            heads.append(self.numbers_head)
        with torch.no_grad():  # views begin as noise, but for what gives every parameter a gradient
            for parameter in (p for head in heads for p in head.parameters()):
                parameter.mul_(0.05)

    def weigh(self, maps: Sequence[float], numbers: Sequence[float]) -> None:
        """Multiply the departure of each map and of each number."""
        for name, weights, dims in (("map_weights", maps, self.stem.weight.ndim - 2), ("number_weights", numbers, 0)):
            if any(weight != 1 for weight in weights):
                self.register_buffer(name, torch.tensor(weights).view(-1, *(1,) * dims), persistent=False)

    def noise_shapes(self, size: Sequence[int]) -> Shapes:
        grid = tuple(-(-side // self.patch) for side in size)  # rounded up
        return (*super().noise_shapes(size), (self.noise, *grid), (self.noise,))

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Raw:
        random = super().forward(x, noise[:-2])
        field, numbers = standardise(noise[-2]), standardise(noise[-1])
        h = self.stem(pad_to(x, self.patch)) + self.field(field)
        h = h.add_(self.sample(numbers)[(..., *(None,) * (x.ndim - 2))])
        if x.ndim == 4 and x.device.type == "cpu":  # faster convolutions, whatever the format of the input
            h = h.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h)
        h = _activate(h)
        limit = self.departure * _MEAN_SIZE
        maps = random.maps
        if self.maps:
            learned = widen(self._rise(h, x))
            most = limit * math.prod(learned.shape[1:])
            size = torch.linalg.vector_norm(learned, 1, tuple(range(1, x.ndim)), keepdim=True)
            if self.map_weights is not None:
                learned = learned * self.map_weights
            maps = torch.addcmul(maps, learned, (size + most).reciprocal(), value=most)
        if not self.numbers:
            return Raw(maps, random.numbers)
        # Means over a grid vary little with its noise, so that the numbers see that of the whole sample once more.
        learned = widen(self.numbers_head(torch.cat([h.flatten(2).mean(2), numbers], 1)))
        learned = limit * (learned / limit).tanh()
        return Raw(maps, random.numbers + (learned if self.number_weights is None else learned * self.number_weights))

    def _rise(self, h: Tensor, x: Tensor) -> Tensor:
        """Return maps at the resolution of `x`: the head's, interpolated linearly, and a pattern at each cell.

        Both are transposed convolutions of twice their stride, with fixed weights and with learned ones. They are
        computed at once, by the phases of their outputs, each of which two cells along an axis reach: on a CPU that
        takes an eighth of the time. Beyond the border there is the mean.
        """
        # Without their mean, cells make no pattern that all share: its spectrum would be lines at the grid's frequency.
        mean = h.mean(tuple(range(2, h.ndim)), keepdim=True)
        ramps = self.head.weight[:, None] * self.ramp.to(h.dtype)
        weight = self.patterns.weight * self.window.to(h.dtype) + ramps.flatten(0, 1)
        conv = (F.conv1d, F.conv2d, F.conv3d)[h.ndim - 3]
        y = conv(h - mean, weight, padding=1)
        y = crop(shuffle(y, self.patch, is_channels_last(x)), x.shape[2:], self.patch // 2)
        return y + self.head(mean)

    def extra_repr(self) -> str:
        return f"patch={self.patch}, noise={self.noise}, departure={self.departure:g}"


class _Block(nn.Module):
    """``h + conv(act(conv(act(h))))``."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.conv1 = CONV[dims](width, width, 3, padding=1)
        self.conv2 = CONV[dims](width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv2(_activate(self.conv1(_activate(h))))


def _activate(h: Tensor) -> Tensor:
    """A leaky rectifier in place of a copy: for the backward pass its output is kept, and not its input as well."""
    return F.leaky_relu(h.clone(), 0.1, inplace=True) if h.requires_grad else F.leaky_relu(h, 0.1)


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
        activation: ``"relu"`` or ``"leaky_relu"``; in residual blocks it is the former whatever is asked for.

    Shape:
        - x: ``(B, channels, H, W)``, with sides of at least 5 (reflection padding).
        - Output: ``(B, maps, H, W)`` and ``(B, numbers)``.
        - noise: ``(B, 1, H, W)``, then for each block ``(B, 1, ceil(H / 4), ceil(W / 4))``, and ``(B, numbers)`` if
          there are any.
    """

    smallest = 5

    def __init__(
        self, channels: int, maps: int, dims: int, numbers: int = 0, *, blocks: int = 3, activation: str = "relu"
    ) -> None:
        super().__init__()
        check_count("blocks", blocks, 0)
        check_choice("activation", activation, _ACTIVATIONS)
        if dims != 2:
            raise ValueError(f"Expected `dims` to be 2 for the reference generator, but got {dims}.")
        self.down = nn.Sequential(
            _ConvNorm(channels + 1, 32, 9, act=activation),
            _ConvNorm(32, 64, 3, stride=2, act=activation),
            _ConvNorm(64, 128, 3, stride=2, act=activation),
        )
        self.blocks = nn.ModuleList(_ReferenceBlock(128 + i + 1) for i in range(blocks))
        if maps:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2),
                _ConvNorm(128 + blocks, 64, 3, act=activation),
                nn.Upsample(scale_factor=2),
                _ConvNorm(64, 32, 3, act=activation),
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
        maps = crop(self.head(self.up(h)), x.shape[2:]) if self.maps else None
        return make_raw(x, maps, h, self.numbers_head, [standardise(field) for field in noise[1 + len(self.blocks) :]])

    def extra_repr(self) -> str:
        return f"blocks={len(self.blocks)}"


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "leaky_relu": F.leaky_relu}


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, *, act: str | None = "relu") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(width, affine=True)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return _ACTIVATIONS[self.act](x) if self.act else x


class _ReferenceBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(width, width, 3)
        self.conv2 = _ConvNorm(width, width, 3, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def make_raw(
    x: Tensor, maps: Tensor | None, h: Tensor, numbers_head: nn.Linear | None, noise: Sequence[Tensor] = ()
) -> Raw:
    """Put maps together with numbers, made of the means of `h` and noise; what nobody needs is empty."""
    batch = x.shape[0]
    return Raw(
        x.new_empty(batch, 0, *x.shape[2:]) if maps is None else maps,
        x.new_empty(batch, 0) if numbers_head is None else numbers_head(torch.cat([h.flatten(2).mean(2), *noise], 1)),
    )


def standardise(noise: Tensor) -> Tensor:
    """Uniform noise in [0, 1), made of mean 0 and variance 1."""
    return (noise - 0.5) * math.sqrt(12)


def is_channels_last(x: Tensor) -> bool:
    """Whether images are in that format and no other."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _line(patch: int) -> Tensor:
    """How much of the cell before, and of the next one, there is at each place between their centres, linearly."""
    share = (torch.arange(patch) + 0.5 + patch / 2 - patch // 2) / patch
    return torch.stack([1 - share, share], 1)


def _product(line: Tensor, dims: int) -> Tensor:
    """Weights by phase and by the two cells along each axis, ``(patch^dims, 1, 2, ...)``, products of those of axes."""
    product = line
    for _ in range(dims - 1):
        product = (product[:, None, ..., None] * line.view(1, len(line), *(1,) * (product.ndim - 1), 2)).flatten(0, 1)
    return product[:, None]


def shuffle(x: Tensor, patch: int, channels_last: bool) -> Tensor:
    """``pixel_shuffle`` for any number of spatial dimensions, to a contiguous tensor or one that is channels-last."""
    if channels_last:
        return F.pixel_shuffle(x, patch)
    dims = x.ndim - 2
    x = x.unflatten(1, (-1, *(patch,) * dims))  # (B, C, p.., g..)
    order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]
    x = x.permute(0, 1, *order)
    return x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * patch for i in range(dims)))


def pad_to(x: Tensor, patch: int) -> Tensor:
    """Pad with zeros at the ends, to whole patches."""
    pads = [pad for side in reversed(x.shape[2:]) for pad in (0, -side % patch)]
    return F.pad(x, pads) if any(pads) else x


def crop(x: Tensor, size: Sequence[int], start: int = 0) -> Tensor:
    """Cut to a spatial size, from the same place along each axis."""
    for dim, side in enumerate(size, start=2):
        if x.shape[dim] != side:
            x = x.narrow(dim, start, side)
    return x


GENERATORS: dict[str, type[Generator]] = {
    "random": RandomGenerator,
    "fast": FastGenerator,
    "reference": ReferenceGenerator,
}
