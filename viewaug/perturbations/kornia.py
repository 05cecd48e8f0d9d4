"""Learn the magnitudes of any kornia augmentation that is differentiable in them."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from kornia import augmentation
from torch import Tensor, nn

from viewaug.perturbations.base import Needs, Perturbation, Raw, per_sample

# The size of the images on which an augmentation is tried, and how often it is asked what it draws.
_TRIAL = (23, 19)
_DRAWS = 256


class _Drawn(NamedTuple):
    """The range of a parameter: of its entries, ``(*)``, or of the channels of a field, ``(C, 1, 1)``."""

    low: Tensor
    high: Tensor
    field: bool

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the parameter for a batch of images."""
        return (x.shape[0], len(self.low), *x.shape[2:]) if self.field else (x.shape[0], *self.low.shape)

    def at(self, share: Tensor) -> Tensor:
        """Go from the middle of the range, 0, to its ends, -1 and 1."""
        low, high = self.low.to(share), self.high.to(share)
        return (low + high) / 2 + share * (high - low) / 2


class Kornia(Perturbation):
    """Applies a kornia augmentation whose magnitudes the generator chooses, between the bounds it was built with.

    Every parameter that the augmentation draws and its output is differentiable in is chosen so: a few numbers for
    each sample, or, where the augmentation draws a field of the image's size, maps. What it draws besides stays in the
    middle of its range, and is left out of what is learned. One number more, ``|tanh|`` of it, blends input and output,
    since an augmentation need not have magnitudes at which it does nothing.

    Its random twin is the augmentation itself, blended with its input by a random share.

    Args:
        op: an augmentation, such as ``kornia.augmentation.RandomSharpness(0.5)``, or its class name. A viewmaker can
            be saved if it is a name.
        **arguments: of the class, if `op` is a name. The probability is always 1.

    Raises:
        TypeError: if `op` is no two-dimensional augmentation of kornia's, nor the name of one.
        ValueError: for an augmentation that draws nothing its output is differentiable in, such as flips or
            posterisation, or that changes the size of an image; found by trying it when a viewmaker is built.

    Examples:
        >>> import kornia.augmentation as K
        >>> from viewaug.perturbations import Kornia
        >>> viewmaker = viewaug.Viewmaker(perturbation=["spectral", Kornia(K.RandomSharpness(0.5))])
        >>> viewmaker(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
        >>> viewaug.Viewmaker(perturbation=Kornia("RandomHorizontalFlip"))
        Traceback (most recent call last):
        ValueError: Expected `op` to be differentiable in what it draws, but RandomHorizontalFlip draws no real number.
    """

    dims = (2,)

    def __init__(self, op: nn.Module | str, **arguments: Any) -> None:
        super().__init__()
        if isinstance(op, str):
            kind = getattr(augmentation, op, None)
            if not isinstance(kind, type) or not issubclass(kind, augmentation.AugmentationBase2D):
                raise TypeError(f"Expected `op` to name a 2-D augmentation of kornia's, but got {op!r}.")
            made = kind(**arguments)
        elif isinstance(op, augmentation.AugmentationBase2D):
            made = copy.deepcopy(op).cpu()
        else:
            raise TypeError(f"Expected `op` to be a 2-D augmentation of kornia's, but got {type(op).__name__}.")
        made.p = made.p_batch = 1.0
        made.same_on_batch = made.keepdim = False
        # In tuples, where its buffers are no part of the state dict.
        self._op, self._named = (made,), (op, arguments)
        self._learned: tuple[str, ...] = ()
        self._draws_fields = False
        self._cache: dict[tuple[int, ...], tuple[dict[str, _Drawn], dict[str, Tensor]]] = {}
        self.unit_range = isinstance(made, augmentation.IntensityAugmentationBase2D)
        self.geometric = not self.unit_range

    @property
    def options(self) -> dict[str, Any]:
        op, arguments = self._named
        return {"op": op, **{key: list(v) if isinstance(v, tuple) else v for key, v in arguments.items()}}

    def needs(self, channels: int, dims: int) -> Needs:
        name = type(self._op[0]).__name__
        expected = f"Expected `op` to be differentiable in what it draws, but {name}"
        drawn, _ = self._draw((channels, *_TRIAL))
        self._draws_fields = any(value.field for value in drawn.values())
        varied = [key for key, value in drawn.items() if bool((value.high > value.low).any())]
        if not varied:
            raise ValueError(f"{expected} draws no real number.")
        self._learned = tuple(self._differentiable(channels, varied))
        if not self._learned:
            raise ValueError(f"{expected} has no gradient in {', '.join(varied)}.")
        learned = [drawn[key] for key in self._learned]
        maps = sum(len(value.low) for value in learned if value.field)
        return Needs(maps, 1 + sum(value.low.numel() for value in learned if not value.field))

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        # kornia would refuse a whole batch for one sample with NaN; that sample alone becomes NaN instead.
        bad = (0 * raw.numbers).sum(1, keepdim=True)
        gate, chosen = self._choose(x, raw)
        base = x.clamp(0, 1) if self.unit_range else x
        return x + per_sample(gate + bad, 2) * (self._augment(base, chosen) - base)

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        gate, chosen = self._choose(x, raw)
        found = {"blend [share]": gate[:, 0]}
        for key, value in chosen.items():
            entries = value.mean((2, 3)) if value.ndim == 4 else value.reshape(len(value), -1)  # of fields the mean
            names = [key] if entries.shape[1] == 1 else [f"{key} {i}" for i in range(entries.shape[1])]
            found |= dict(zip(names, entries.unbind(1), strict=True))
        return found

    def _choose(self, x: Tensor, raw: Raw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the share of the blend, and what is learned of the parameters."""
        drawn, _ = self._draw(tuple(x.shape[1:]))
        numbers, maps = raw.numbers.nan_to_num().tanh(), raw.maps.nan_to_num().tanh()
        gate, numbers = numbers[:, :1].abs(), numbers[:, 1:]
        chosen = {}
        for key in self._learned:
            low, _, field = drawn[key]
            if field:
                share, maps = maps.tensor_split([len(low)], 1)
            else:
                share, numbers = numbers.tensor_split([low.numel()], 1)
                share = share.unflatten(1, low.shape) if low.ndim else share.squeeze(1)
            chosen[key] = drawn[key].at(share)
        return gate, chosen

    def _draw(self, size: tuple[int, ...]) -> tuple[dict[str, _Drawn], dict[str, Tensor]]:
        """Find the ranges of what is drawn for images of a size, and one draw, the same always, of all else."""
        if self._draws_fields:  # many large ones would take long, and their range is the same for all sizes
            size = (size[0], *_TRIAL)
        if size not in self._cache:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.default_generator.manual_seed(0)  # as torch.manual_seed does, but on the CPU alone
                params = self._op[0].forward_parameters((_DRAWS, *size))
            drawn, fixed = {}, {}
            for key, value in params.items():
                if key in ("batch_prob", "forward_input_shape"):
                    continue
                if not value.is_floating_point() or len(value) != _DRAWS:
                    fixed[key] = value[:1] if len(value) == _DRAWS else value
                    continue
                field = value.ndim == 4 and value.shape[2:] == size[1:]
                over = (0, 2, 3) if field else (0,)
                low, high = value.amin(over), value.amax(over)
                drawn[key] = (
                    _Drawn(low[:, None, None], high[:, None, None], True) if field else _Drawn(low, high, False)
                )
            self._cache[size] = drawn, fixed
        return self._cache[size]

    def _augment(self, x: Tensor, chosen: dict[str, Tensor]) -> Tensor:
        """Apply the augmentation with some parameters chosen, the others in the middle of their ranges."""
        drawn, fixed = self._draw(tuple(x.shape[1:]))
        batch = x.shape[0]
        params = {"batch_prob": x.new_ones(batch), "forward_input_shape": torch.tensor(x.shape)}
        for key, value in fixed.items():
            params[key] = value.to(x.device).expand(batch, *value.shape[1:]) if len(value) == 1 else value.to(x.device)
        for key, entry in drawn.items():
            params[key] = chosen[key] if key in chosen else entry.at(x.new_zeros(entry.shape(x)))
        # A call leaves its parameters, and their graph, on the module: a shallow copy takes them away with it.
        return copy.copy(self._op[0])(x, params=params)

    def _differentiable(self, channels: int, varied: list[str]) -> Iterator[str]:
        """Try which parameters have a gradient, on an image of noise."""
        drawn, _ = self._draw((channels, *_TRIAL))
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, channels, *_TRIAL, generator=generator)
        chosen = {}
        for key in varied:
            share = 0.8 * torch.rand(drawn[key].shape(x), generator=generator) - 0.4
            chosen[key] = drawn[key].at(share).requires_grad_()
        with torch.enable_grad():
            y = self._augment(x, chosen)
            if y.shape != x.shape:
                name = type(self._op[0]).__name__
                raise ValueError(f"Expected `op` to keep the size of an image, but {name} does not.")
            if not y.requires_grad:
                return
            total = (y * torch.rand(y.shape, generator=generator)).sum()
            grads = torch.autograd.grad(total, list(chosen.values()), allow_unused=True)
        for key, grad in zip(chosen, grads, strict=True):
            if grad is not None and bool(grad.isfinite().all() & grad.any()):
                yield key
