"""Train a viewmaker against an encoder in one backward pass: gradient reversal, the drop-in, the joint optimizer."""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from viewaug.viewmaker import Viewmaker


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
    optimizer, best by :class:`JointOptimizer`. In ``eval()`` the input passes through, normalised all the same.

    It learns even where the caller has switched gradients off, as some frameworks do around augmentations.

    Args:
        viewmaker: the viewmaker; its ``value_range`` is that of `x`, so normalise afterwards, by `mean` and `std`.
        mean: what to subtract from a view, a number or one per channel.
        std: what to divide a view by afterwards, a number or one per channel.
        transform: a pipeline over batches, such as a kornia one, to run before each view while training.
        warmup: number of training calls over which the budget grows linearly to the viewmaker's own.

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
    ) -> None:
        super().__init__()
        if not isinstance(viewmaker, Viewmaker):
            raise TypeError(f"Expected `viewmaker` to be a viewaug.Viewmaker, but got {type(viewmaker).__name__}.")
        if transform is not None and not callable(transform):
            raise TypeError(f"Expected `transform` to be callable, but got {type(transform).__name__}.")
        if isinstance(warmup, bool) or not isinstance(warmup, int):
            raise TypeError(f"Expected `warmup` to be an integer, but got {type(warmup).__name__}.")
        if warmup < 0:
            raise ValueError(f"Expected `warmup` to be a number of calls, 0 or more, but got {warmup}.")
        self.viewmaker = viewmaker
        self.transform = transform
        self.warmup = warmup
        self.frozen = False
        self._checked = False
        self.register_buffer("_mean", _per_channel("mean", mean, viewmaker), persistent=False)
        self.register_buffer("_std", _per_channel("std", std, viewmaker), persistent=False)
        if self._std is not None and not bool((self._std > 0).all()):
            raise ValueError(f"Expected `std` to be positive, but got {std}.")
        self.register_buffer("_calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Return one view, normalised; in ``eval()`` the input, normalised."""
        if not self.training:
            return self._normalise(x)
        if self.frozen:
            return self._normalise(self._view(x))
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            raise RuntimeError("A viewmaker cannot learn under torch.inference_mode(); call eval() or freeze() first.")
        with torch.enable_grad():
            return self._normalise(reverse_gradient(self._view(x)))

    def views(self, x: Tensor, n: int = 2) -> list[Tensor]:
        """Return `n` independent views of each sample, made in one pass over a batch of ``n * B``.

        Shape:
            - x: ``(B, channels, *spatial)``.
            - Output: `n` tensors like `x`.
        """
        if n < 1:
            raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
        views = self(torch.cat([x] * n))
        with torch.set_grad_enabled(views.requires_grad or torch.is_grad_enabled()):
            return list(views.tensor_split(n))

    def freeze(self, frozen: bool = True) -> "AdversarialAugmentation":
        """Make the viewmaker a fixed augmentation that still perturbs in training; ``freeze(False)`` undoes it."""
        self.viewmaker.requires_grad_(not frozen)
        self.frozen = frozen
        return self

    def extra_repr(self) -> str:
        parts = {"warmup": self.warmup, "frozen": self.frozen}
        return ", ".join(f"{name}={value}" for name, value in parts.items() if value)

    def _view(self, x: Tensor) -> Tensor:
        if self.transform is not None:
            x = self.transform(x)
        if not self._checked and not torch.compiler.is_compiling():
            self._check(x)
        if self.frozen:
            return self.viewmaker(x)
        budget = None
        if self.warmup:
            self._calls += 1
            budget = self.viewmaker.budget * (self._calls / self.warmup).clamp(max=1)
        if isinstance(x, Tensor) and x.requires_grad:
            x = reverse_gradient(x)  # and again behind the viewmaker, so that what made x gets its gradient unchanged
        return self.viewmaker(x, budget=budget)

    def _check(self, x: Tensor) -> None:
        """Refuse a first batch that is outside the value range, most often one that is normalised already."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
            return  # nothing to see, or an error of the viewmaker's
        low, high = (value.item() for value in x.detach().aminmax())
        seen = f"but the first batch has values from {low:.4g} to {high:.4g}"
        if not bool(x.isfinite().all()):
            raise ValueError(f"Expected `x` to be finite, {seen}.")
        if self.viewmaker.value_range is not None:
            bottom, top = self.viewmaker.value_range
            if low < bottom - 1e-3 or high > top + 1e-3:
                raise ValueError(
                    f"Expected `x` within the viewmaker's value range, {bottom:g} to {top:g}, {seen}. If it is "
                    "normalised already, leave that to `mean` and `std`, or give the viewmaker another `value_range`."
                )
        self._checked = True

    def _normalise(self, x: Tensor) -> Tensor:
        if self._mean is not None:
            x = x - self._mean.to(x.dtype)
        if self._std is not None:
            x = x / self._std.to(x.dtype)
        return x


class JointOptimizer(Optimizer):
    """One optimizer for both players: the encoder's by any rule, the viewmaker's by Adam.

    Budget-normalised viewmakers hardly move under SGD and LARS. Schedulers, AMP scalers, clipping, checkpoints and
    trainers see one optimizer, whose first groups are the encoder's and whose last one is the viewmaker's; the latter
    is marked by ``group["viewmaker"] = True``.

    A step whose gradients for the viewmaker are not all finite leaves the viewmaker and its moments as they were,
    without waiting for the device. :attr:`skipped_steps` counts those.

    Args:
        base: an optimizer over the encoder's parameters, which from then on only this one steps.
        params: the viewmaker's parameters.
        lr: the viewmaker's learning rate.
        betas: Adam's coefficients of the running averages.
        eps: Adam's term beside the denominator.
        weight_decay: decoupled weight decay, as AdamW's.

    Raises:
        ValueError: if `params` is empty, is in `base` as well, or a setting is out of range.

    Examples:
        >>> encoder, viewmaker = torch.nn.Linear(2, 2), viewaug.Viewmaker(1)
        >>> base = torch.optim.SGD(encoder.parameters(), lr=0.06, momentum=0.9)
        >>> optimizer = JointOptimizer(base, viewmaker.parameters(), lr=1e-3)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.06, 0.001]
    """

    def __init__(
        self,
        base: Optimizer,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"Expected `base` to be an optimizer, but got {type(base).__name__}.")
        adversary = _MaskedAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        # The very same dictionaries; the defaults tell schedulers what the base has, such as a momentum.
        super().__init__([*base.param_groups, *adversary.param_groups], dict(base.defaults))
        self.base, self.adversary = base, adversary
        self.state.update(base.state)
        self._share()

    @classmethod
    @functools.cache
    def of(cls, base: type[Optimizer]) -> type["JointOptimizer"]:
        """Return a class to put where a host wants an optimizer class, such as ``torch.optim.SGD``.

        It takes what `base` takes. Of its parameter groups, those with ``"viewmaker": True`` go to Adam.

        Examples:
            >>> encoder, viewmaker = torch.nn.Linear(2, 2), viewaug.Viewmaker(1)
            >>> groups = [
            ...     {"params": encoder.parameters()},
            ...     {"params": viewmaker.parameters(), "lr": 1e-3, "viewmaker": True},
            ... ]
            >>> JointOptimizer.of(torch.optim.SGD)(groups, lr=0.06, momentum=0.9).__class__.__name__
            'JointSGD'
        """

        class Joint(cls):  # type: ignore[valid-type, misc]
            def __init__(self, params: Iterable[Any], *args: Any, **kwargs: Any) -> None:
                groups = list(params)
                mine = [group for group in groups if _is_viewmakers(group)]
                if not mine:
                    raise ValueError("Expected `params` to hold a group with 'viewmaker': True, but got none.")
                rest = [group for group in groups if not _is_viewmakers(group)]
                JointOptimizer.__init__(self, base(rest, *args, **kwargs), mine)

            def __reduce__(self) -> tuple[Any, ...]:
                return _new_joint, (base,), self.__getstate__()

        Joint.__name__ = Joint.__qualname__ = f"Joint{base.__name__}"
        return Joint

    @property
    def skipped_steps(self) -> int:
        """Number of steps so far that the viewmaker left out; reading it waits for the device, and warns if not 0."""
        skipped = int(self.adversary.skipped)
        if skipped:
            warnings.warn(
                f"The viewmaker left out {skipped} steps whose gradients were not finite.", RuntimeWarning, stacklevel=2
            )
        return skipped

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step both players; `closure` is the base optimizer's."""
        loss = self.base.step(closure) if closure is not None else self.base.step()
        self.adversary.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the encoder's, or to the viewmaker's if it has ``"viewmaker": True``."""
        if "base" in self.__dict__:
            part = self.adversary if _is_viewmakers(param_group) else self.base
            part.add_param_group(param_group)
            try:
                super().add_param_group(param_group)
            except ValueError:
                part.param_groups.pop()
                raise
        else:
            super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base, "adversary": self.adversary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let both parts hold this optimizer's groups and state, so that there is one truth."""
        for part, viewmakers in ((self.base, False), (self.adversary, True)):
            groups = [group for group in self.param_groups if _is_viewmakers(group) == viewmakers]
            part.__setstate__({"state": self.state, "param_groups": groups})


class _MaskedAdam(Optimizer):
    """Adam (Kingma & Ba, ICLR 2015) that leaves everything as it was where a gradient is not finite."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        # "capturable" makes load_state_dict keep the step count on the parameter's device, in float32.
        super().__init__(params, {**defaults, "viewmaker": True, "capturable": True})
        self.skipped = torch.zeros((), dtype=torch.long)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        for name, high in (("lr", math.inf), ("betas", 1), ("eps", math.inf), ("weight_decay", math.inf)):
            values = group[name] if name == "betas" else [group[name]]
            if not all(0 <= value < high for value in values):
                raise ValueError(f"Expected `{name}` to be within [0, {high}), but got {group[name]}.")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "skipped": self.skipped}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        grads = [cast(Tensor, p.grad) for _, params in groups for p in params]
        if not grads:
            return
        # The square is what Adam keeps, so it must not overflow either.
        finite = torch.stack([grad.square().isfinite().all() for grad in grads]).all()
        self.skipped = self.skipped.to(finite.device) + ~finite
        for group, params in groups:
            # The mask sits in the coefficients: with a decay of 1 and a rate of 0, a step changes nothing.
            beta1, beta2 = (torch.where(finite, beta, 1.0) for beta in group["betas"])
            lr = torch.where(finite, group["lr"], 0.0)
            for p in params:
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), device=p.device)
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                grad = torch.where(finite, cast(Tensor, p.grad), 0)
                state["step"] += finite
                state["exp_avg"].lerp_(grad, (1 - beta1).to(p.dtype))
                state["exp_avg_sq"].lerp_(grad.square(), (1 - beta2).to(p.dtype))
                first, second = (1 - beta ** state["step"].clamp(min=1) for beta in group["betas"])
                change = state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])
                p.mul_(1 - lr * group["weight_decay"]).sub_(torch.where(finite, lr * change, 0))


def _new_joint(base: type[Optimizer]) -> JointOptimizer:
    joint = JointOptimizer.of(base)  # type: ignore[arg-type]
    return joint.__new__(joint)


def _is_viewmakers(group: Any) -> bool:
    return isinstance(group, dict) and bool(group.get("viewmaker", False))


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
