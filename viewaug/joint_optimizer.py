"""One optimizer for both players: the encoder's by any rule, the viewmaker's by Adam."""

import functools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """One optimizer for both players: the encoder's by any rule, the viewmaker's by Adam.

    Budget-normalised viewmakers hardly move under SGD and LARS. Schedulers, AMP scalers, clipping, checkpoints and
    trainers see one optimizer, whose first groups are the encoder's and whose last one is the viewmaker's; the latter
    is marked by ``group["viewmaker"] = True``.

    A step whose gradients for the viewmaker are not all finite leaves the viewmaker and its moments as they were,
    without waiting for the device. :attr:`skipped_steps` counts those.

    Args:
        base: an optimizer over the encoder's parameters, which from then on only this one steps.
        params: the viewmaker's parameters; of a viewmaker of random views there are none, and only `base` steps.
        lr: the viewmaker's learning rate.
        betas: Adam's coefficients of the running averages.
        eps: Adam's term beside the denominator.
        weight_decay: decoupled weight decay, as AdamW's.

    Raises:
        ValueError: if `params` is in `base` as well, or a setting is out of range.

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
        adversary = MaskedAdam(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
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


class MaskedAdam(Optimizer):
    """Adam (Kingma & Ba, ICLR 2015) that leaves everything as it was where a gradient is not finite."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        params = list(params) or [{"params": []}]  # a viewmaker of random views has none
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
