"""Train a viewmaker against an encoder in one backward pass: gradient reversal, and the drop-in that uses it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from viewaug._watch import Watch, in_backward
from viewaug.steering import Scorer, Steering
from viewaug.viewmaker import Viewmaker, check_viewmaker


class _ReverseGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:
        return x.clone()  # not a view: what comes next may work in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * -ctx.scale, None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the input as it is, and turn its gradient round: ``-scale * grad`` flows back.

    From Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation" (ICML 2015). Under Adam and LARS, which
    divide by the size of the gradient, `scale` has no effect on what is trained; a learning rate has.

    Args:
        x: any tensor.
        scale: factor of the reversed gradient.

    Shape:
        - x, output: ``(*)``.

    Examples:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    return _ReverseGradient.apply(x, scale)


class AdversarialAugmentation(nn.Module):
    """A viewmaker as an augmentation to call in a training loop; whatever loss follows, it learns to raise it.

    While training, ``augmentation(x)`` is a view whose gradient is reversed on the way to the viewmaker, so that the
    backward pass that lowers the encoder's loss raises it for the viewmaker. Give the viewmaker's parameters to the
    optimizer, best by :class:`viewaug.JointOptimizer`. In ``eval()`` the input passes through, normalised all the same.

    It learns even where the caller has switched gradients off, as some frameworks do around augmentations. If it is
    meant to learn and gets no gradient for many calls, or gradients that hardly move it, it warns once and says why.

    Args:
        viewmaker: the viewmaker; its ``value_range`` is that of `x`, so normalise afterwards, by `mean` and `std`.
        mean: what to subtract from a view, a number or one per channel.
        std: what to divide a view by afterwards, a number or one per channel.
        transform: a pipeline over batches, such as a kornia one, to run before each view while training. Those of
            torchvision draw once a batch, and so once for each view; :func:`per_sample` has them draw for each sample.
        warmup: number of training calls over which the budget grows linearly to the viewmaker's own.
        spare: a scorer whose answers views are to keep, so that they attack everything but these: a function, or a
            module, from inputs, not normalised, to logits ``(B, classes)``, or to such for each label's name, as a
            :class:`viewaug.probes.Probe`. A module is copied, in evaluation mode, and is no part of this one. The
            answer to keep is the one that the scorer gives to the input. It costs a pass over the inputs, and one
            over the views with its gradient.
        target: a scorer whose answers views are to destroy, likewise.
        weight: of the scorers beside the loss, as a multiple of the loss's gradient of each view; see
            :class:`viewaug.steering.Steering`.

    Shape:
        - x: ``(B, channels, *spatial)``.
        - Output: as `x`, or as `transform` returns it.

    Raises:
        ValueError: if the first batch to train on is outside the viewmaker's value range or not finite. Later batches
            are not looked at, since that would make the device wait.
        RuntimeError: if it is called for training under ``torch.inference_mode()``.

    Examples:
        >>> augmentation = AdversarialAugmentation(viewaug.Viewmaker(3), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        >>> x = torch.rand(4, 3, 32, 32)
        >>> view = augmentation(x)
        >>> view.shape
        torch.Size([4, 3, 32, 32])
        >>> torch.allclose(augmentation.eval()(x), (x - 0.5) / 0.2)
        True
    """

    _calls: Tensor
    _mean: Tensor | None
    _std: Tensor | None

    def __init__(
        self,
        viewmaker: Viewmaker,
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        warmup: int = 0,
        spare: Scorer | None = None,
        target: Scorer | None = None,
        weight: float = 4.0,
    ) -> None:
        super().__init__()
        check_viewmaker(viewmaker)
        if transform is not None and not callable(transform):
            raise TypeError(f"Expected `transform` to be callable, but got {type(transform).__name__}.")
        if isinstance(warmup, bool) or not isinstance(warmup, int):
            raise TypeError(f"Expected `warmup` to be an integer, but got {type(warmup).__name__}.")
        if warmup < 0:
            raise ValueError(f"Expected `warmup` to be a number of calls, 0 or more, but got {warmup}.")
        if warmup and viewmaker.budget is None:
            raise ValueError(f"Expected no `warmup` for a viewmaker without a budget, but got {warmup}.")
        steered = spare is not None or target is not None
        if steered and not any(True for _ in viewmaker.parameters()):
            raise ValueError("Expected no `spare` or `target` for a viewmaker of random views, which learns nothing.")
        self._steering = Steering(spare, target, weight) if steered else None
        self.viewmaker = viewmaker
        self.transform = transform
        self.warmup = warmup
        self.frozen = self._keeps_graph = False
        self._checked = False
        self._watch = Watch()
        self.register_buffer("_mean", _per_channel("mean", mean, viewmaker), persistent=False)
        self.register_buffer("_std", _per_channel("std", std, viewmaker), persistent=False)
        if self._std is not None and not bool((self._std > 0).all()):
            raise ValueError(f"Expected `std` to be positive, but got {std}.")
        self.register_buffer("_calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, *, where: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Return one view, normalised; in ``eval()`` the input, normalised.

        Args:
            x: the input.
            where: what may change, as of :meth:`viewaug.Viewmaker.forward`.
            lengths: of samples with padding, likewise.
        """
        return self.normalise(self.perturb(x, where=where, lengths=lengths) if self.training else x)

    def perturb(
        self,
        x: Tensor,
        noise: tuple[Tensor, ...] | None = None,
        *,
        budget: float | Tensor | None = None,
        copies: int = 1,
        where: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return one view as in training, not normalised.

        Args:
            x: the input.
            noise: as of :meth:`viewaug.Viewmaker.forward`, for what `transform` returns.
            budget: in place of the viewmaker's own and of the warm-up, a number or one per sample.
            copies: as of :meth:`viewaug.Viewmaker.forward`.
            where: as of :meth:`viewaug.Viewmaker.forward`, for what `transform` returns.
            lengths: likewise.
        """
        with self._gradients():
            return self._view(self._transformed(x), noise, budget, copies, where, lengths)

    def perturb_each(
        self,
        inputs: Sequence[Tensor],
        generator: torch.Generator | None = None,
        *,
        budget: float | Tensor | None = None,
        where: Tensor | Sequence[Tensor] | None = None,
        lengths: Tensor | Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Return :meth:`perturb` of each of several batches, such as crops of two sizes.

        `transform` runs on each by itself; then those of one shape go through the viewmaker in one pass.

        Args:
            inputs: the batches.
            generator: source of the noise; None for torch's own.
            budget: as of :meth:`perturb`, a number.
            where: as of :meth:`perturb`, the same for each batch, or one for each.
            lengths: likewise.
        """
        views: dict[int, Tensor] = {}
        with self._gradients():
            inputs = [self._transformed(x) for x in inputs]
            for shape in dict.fromkeys(x.shape for x in inputs):
                alike = [i for i, x in enumerate(inputs) if x.shape == shape]
                x = torch.cat([inputs[i] for i in alike])
                mask, ends = (_joined(part, alike, shape[0]) for part in (where, lengths))
                view = self._view(x, self.viewmaker.draw_noise(x, generator), budget, len(alike), mask, ends)
                views.update(zip(alike, view.tensor_split(len(alike)), strict=True))
        return [views[i] for i in range(len(inputs))]

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation; of a view, with gradients wherever it has some."""
        if self._mean is None and self._std is None:
            return x
        if not x.is_floating_point():
            raise TypeError(f"Expected `x` to be floating point, to be normalised, but got {x.dtype}.")
        with torch.set_grad_enabled(torch.is_grad_enabled() or (self.training and x.requires_grad)):
            if self._mean is not None:
                x = x - self._mean.to(x.dtype)
            if self._std is not None:
                x = x / self._std.to(x.dtype)
            return x

    def views(
        self, x: Tensor, n: int = 2, *, where: Tensor | None = None, lengths: Tensor | None = None
    ) -> list[Tensor]:
        """Return `n` independent views of each sample, made in one pass over a batch of ``n * B``.

        Args:
            x: the input.
            n: how many.
            where: what may change, as of :meth:`viewaug.Viewmaker.forward`.
            lengths: of samples with padding, likewise.

        Shape:
            - x: ``(B, channels, *spatial)``.
            - Output: `n` tensors like `x`.
        """
        if n < 1:
            raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
        views = self.perturb_each([x] * n, where=where, lengths=lengths) if self.training else [x] * n
        return [self.normalise(view) for view in views]

    def freeze(self, frozen: bool = True, *, keep_graph: bool = False) -> "AdversarialAugmentation":
        """Make the viewmaker a fixed augmentation that still perturbs in training; ``freeze(False)`` undoes it.

        A frozen viewmaker gets no gradient, whatever its parameters' ``requires_grad``.

        Args:
            frozen: whether to freeze it.
            keep_graph: give its parameters gradients of zero, as a ``DistributedDataParallel`` around them expects,
                instead of none. An optimizer with momentum or decay has to be stopped, too.
        """
        self.viewmaker.requires_grad_(keep_graph or not frozen)
        if frozen:  # those that are left would go on moving it, by an optimizer's momentum
            self.viewmaker.zero_grad(set_to_none=True)
        self.frozen, self._keeps_graph = frozen, keep_graph
        return self

    def extra_repr(self) -> str:
        parts = {"warmup": self.warmup, "frozen": self.frozen}
        return ", ".join(f"{name}={value}" for name, value in parts.items() if value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._steering is not None:
            self._steering.move(fn)
        return super()._apply(fn, recurse)

    def _gradients(self) -> AbstractContextManager[object]:
        """Let it learn whatever the caller's mode is, unless it is frozen."""
        if self.frozen:
            return nullcontext()
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            raise RuntimeError("A viewmaker cannot learn under torch.inference_mode(); call eval() or freeze() first.")
        return torch.enable_grad()

    def _transformed(self, x: Tensor) -> Tensor:
        return x if self.transform is None else self.transform(x)

    def _view(
        self,
        x: Tensor,
        noise: tuple[Tensor, ...] | None,
        budget: float | Tensor | None,
        copies: int,
        where: Tensor | None,
        lengths: Tensor | None,
    ) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if not self._checked and not compiling:
            self._checked = check_values(x, self.viewmaker)
        options = {"budget": budget, "copies": copies, "where": where, "lengths": lengths}
        if self.frozen:
            # Also where a host has thawed its parameters: without a reversed gradient they would learn to help.
            fixed = {name: parameter.detach() for name, parameter in self.viewmaker.named_parameters()}
            view: Tensor = torch.func.functional_call(self.viewmaker, fixed, (x, noise), options)
            return view + sum(0 * p.sum() for p in self.viewmaker.parameters()) if self._keeps_graph else view
        if self.warmup:
            if compiling or not in_backward():  # where activation checkpointing repeats a call
                self._calls += 1
            if budget is None and self.viewmaker.budget is not None:
                options["budget"] = self.viewmaker.budget * (self._calls / self.warmup).clamp(max=1)
        if isinstance(x, Tensor) and x.requires_grad:
            if self._steering is not None:
                raise ValueError(f"Expected `x` without a gradient where there is {self._steering}, but it has one.")
            x = reverse_gradient(x)  # and again behind the viewmaker, so that what made x gets its gradient unchanged
        view = self.viewmaker(x, noise, **options)
        if self._steering is not None:
            view = self._steering(x, view)
        view = reverse_gradient(view)
        if not compiling:
            self._watch.see(view, self.viewmaker)
        return view


def _joined(part: Tensor | Sequence[Tensor] | None, chosen: Sequence[int], batch: int) -> Tensor | None:
    """A mask, or lengths, for some of several batches, one after the other."""
    if part is None or (isinstance(part, Tensor) and len(chosen) == 1):
        return part
    parts = [part if isinstance(part, Tensor) else part[i] for i in chosen]
    return torch.cat([one.expand(batch, *one.shape[1:]) if one.ndim > 1 and len(one) == 1 else one for one in parts])


def per_sample(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a transform that runs on each sample of a batch by itself, and so draws for each.

    Args:
        transform: takes and returns a sample, ``(C, *spatial)``, as those of ``torchvision.transforms.v2`` do.

    Examples:
        >>> flip = per_sample(lambda x: x.flip(-1) if torch.rand(()) < 0.5 else x)
        >>> flip(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """
    return lambda x: torch.stack([transform(sample) for sample in x])


def check_values(x: Tensor, viewmaker: Viewmaker) -> bool:
    """Refuse a batch that is outside a viewmaker's value range, most often one that is normalised already.

    Returns:
        Whether there was anything to see; an input that is no batch at all is left to the viewmaker's own errors.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel() or x.is_meta:
        return False
    low, high = (value.item() for value in x.detach().aminmax())
    seen = f"but the first batch has values from {low:.4g} to {high:.4g}"
    if not bool(x.isfinite().all()):
        raise ValueError(f"Expected `x` to be finite, {seen}.")
    if viewmaker.value_range is not None:
        bottom, top = viewmaker.value_range
        if low < bottom - 1e-3 or high > top + 1e-3:
            raise ValueError(
                f"Expected `x` within the viewmaker's value range, {bottom:g} to {top:g}, {seen}. If it is normalised "
                "already, do that after the viewmaker, or give the viewmaker another `value_range`, and a `budget` in "
                "its units."
            )
    return True


def _per_channel(name: str, value: float | Sequence[float] | None, viewmaker: Viewmaker) -> Tensor | None:
    if value is None:
        return None
    try:
        tensor = torch.as_tensor(value, dtype=torch.float32)
    except TypeError:
        raise TypeError(f"Expected `{name}` to be numbers, but got {value!r}.") from None
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"Expected `{name}` to be finite, but got {value}.")
    if tensor.shape not in ((), (1,), (viewmaker.channels,)):
        raise ValueError(
            f"Expected `{name}` to be one number or {viewmaker.channels}, by channel, but got {tuple(tensor.shape)}."
        )
    return tensor.reshape(-1, *(1,) * viewmaker.dims)
