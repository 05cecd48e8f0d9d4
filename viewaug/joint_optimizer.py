"""One optimizer for both players: the encoder's by any rule, the viewmaker's by AdamW or another."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

# Options of torch's optimizers that say how to compute, not what.
_WAYS = ("fused", "foreach", "capturable")
# So many steps are kept apart before it is added up which of them were left out.
_KEPT = 1000
# Steps without a gradient for the viewmaker before there is a warning of it.
_PATIENCE = 100


class JointOptimizer(Optimizer):
    """One optimizer for both players: the encoder's by any rule, the viewmaker's by AdamW or another.

    Budget-normalised viewmakers hardly move under SGD and LARS. Schedulers, AMP scalers, clipping, checkpoints and
    trainers see one optimizer, whose first groups are the encoder's and whose last one is the viewmaker's; the latter
    is marked by ``group["viewmaker"] = True``.

    A step whose gradients for the viewmaker are not all finite leaves the viewmaker and its moments as they were,
    without waiting for the device. :attr:`skipped_steps` counts those.

    Each part keeps, saves and loads its own state. What else `base` has, such as ``first_step`` of SAM, or ``train``
    and ``eval`` of schedule-free optimizers, is found here, too; ``second_step`` steps the viewmaker as well.

    Args:
        base: an optimizer over the encoder's parameters, which from then on only this one steps.
        params: the viewmaker's parameters, for :class:`torch.optim.AdamW`, fused where the device has it; or an
            optimizer over them. Of a viewmaker of random views there are none, and only `base` steps.
        lr: AdamW's learning rate.
        **options: AdamW's; `weight_decay` is 0 unless given.

    Raises:
        ValueError: if `params` is in `base` as well, or a setting is out of range.
        TypeError: if `base` is no optimizer, an option is unknown, or there are options beside an optimizer.

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
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Optimizer,
        lr: float = 1e-3,
        **options: Any,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"Expected `base` to be an optimizer, but got {type(base).__name__}.")
        if isinstance(params, Optimizer) and options:
            raise TypeError(f"Expected no options beside an optimizer as `params`, but got {', '.join(options)}.")
        adversary = params if isinstance(params, Optimizer) else adamw(params, lr=lr, **options)
        for group in adversary.param_groups:
            group["viewmaker"] = True
        # The very same dictionaries; the defaults tell schedulers what the base has, such as a momentum.
        super().__init__([*base.param_groups, *adversary.param_groups], dict(base.defaults))
        self.base, self.adversary = base, adversary
        self._skipped: list[Tensor] = []  # by step, as to add them up would be a launch each time
        self._unheard: float = 0  # steps without a gradient for the viewmaker
        self._rates = [group["lr"] for group in adversary.param_groups]
        self._order = [_is_viewmakers(group) for group in self.param_groups]

    @classmethod
    @functools.cache
    def of(cls, base: type[Optimizer]) -> type["JointOptimizer"]:
        """Return a class to put where a host wants an optimizer class, such as ``torch.optim.SGD``.

        It takes what `base` takes. Of its parameter groups, those with ``"viewmaker": True`` go to AdamW.

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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "base" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(self.base, name)
        return functools.partial(self._second_step, found) if name == "second_step" else found

    @property
    def state(self) -> Any:
        """The states of both parts, by parameter."""
        return _States(self)

    @state.setter
    def state(self, value: Any) -> None:
        """Torch gives each optimizer an empty one."""

    @property
    def skipped_steps(self) -> int:
        """Number of steps so far that the viewmaker left out; reading it waits for the device, and warns if not 0."""
        skipped = int(sum(self._skipped))
        if skipped:
            warnings.warn(
                f"The viewmaker left out {skipped} steps whose gradients were not finite.", RuntimeWarning, stacklevel=2
            )
        return skipped

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step both players; `closure` is the base optimizer's."""
        loss = self.base.step(closure) if closure is not None else self.base.step()
        self._step_viewmaker()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return what both parts return, as one."""
        base, adversary = self.base.state_dict(), self.adversary.state_dict()
        first = sum(len(group["params"]) for group in base["param_groups"])
        mine = [{**group, "params": [first + p for p in group["params"]]} for group in adversary["param_groups"]]
        return {
            **base,
            "state": {**base["state"], **{first + p: state for p, state in adversary["state"].items()}},
            "param_groups": self._in_order(base["param_groups"], mine),
            "skipped_steps": int(sum(self._skipped)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        rest = {name: value for name, value in state_dict.items() if name != "skipped_steps"}
        for part, viewmakers in ((self.base, False), (self.adversary, True)):
            groups = [group for group in state_dict["param_groups"] if _is_viewmakers(group) == viewmakers]
            number = {p: i for i, p in enumerate(itertools.chain(*(group["params"] for group in groups)))}
            state = {number[p]: value for p, value in state_dict["state"].items() if p in number}
            groups = [{**group, "params": [number[p] for p in group["params"]]} for group in groups]
            part.load_state_dict({**({} if viewmakers else rest), "state": state, "param_groups": groups})
        self.param_groups = self._in_order(self.base.param_groups, self.adversary.param_groups)
        # Where those to come will be, to be added up with them.
        device = next((p.device for group in self.adversary.param_groups for p in group["params"]), None)
        self._skipped = [torch.tensor(float(state_dict.get("skipped_steps", 0)), device=device)]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the encoder's, or to the viewmaker's if it has ``"viewmaker": True``."""
        if "base" in self.__dict__:
            if _is_viewmakers(param_group):
                _check_settings(param_group)
            part = self.adversary if _is_viewmakers(param_group) else self.base
            part.add_param_group(param_group)
            try:
                super().add_param_group(param_group)
            except ValueError:
                part.param_groups.pop()
                raise
            self._order.append(_is_viewmakers(param_group))
        else:
            super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("defaults", "base", "adversary", "_skipped", "_unheard", "_rates", "_order")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "param_groups": []})
        self.param_groups = self._in_order(self.base.param_groups, self.adversary.param_groups)

    def _in_order(self, base: list[Any], adversary: list[Any]) -> list[Any]:
        """Put groups of both parts in the order in which they were added."""
        parts = {False: iter(base), True: iter(adversary)}
        return [next(parts[viewmakers]) for viewmakers in self._order]

    def _second_step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        self._step_viewmaker()
        if kwargs.get("zero_grad", args[:1] == (True,)):
            self.adversary.zero_grad()
        return result

    def _step_viewmaker(self) -> None:
        if self._rates and self._unheard == 0:
            self._check_rates()
        skipped = step_if_finite(self.adversary)
        if skipped is not None:
            self._unheard = math.inf  # no more to look at
            self._skipped.append(skipped)
            if len(self._skipped) > _KEPT:
                self._skipped = [torch.stack(self._skipped).sum()]
            return
        self._unheard += any(p.requires_grad for group in self.adversary.param_groups for p in group["params"])
        if self._unheard == _PATIENCE:
            warnings.warn(
                f"The viewmaker got no gradient in its first {_PATIENCE} steps: its views are detached on the way to "
                "the loss, or made where gradients are switched off, which viewaug.AdversarialAugmentation sees to.",
                stacklevel=3,
            )

    def _check_rates(self) -> None:
        """Say it if a scheduler of one number has given the viewmaker the encoder's rate."""
        tops = {group.get("max_lr") for group in self.base.param_groups} - {None}
        for group, rate in zip(self.adversary.param_groups, self._rates, strict=False):
            if group.get("max_lr") in tops and group["max_lr"] != rate:
                warnings.warn(
                    f"A scheduler has given the viewmaker the encoder's rate: up to {group['max_lr']:g}, instead of "
                    f"{rate:g}. Give it a rate for each group, such as max_lr=[{group['max_lr']:g}, {rate:g}].",
                    stacklevel=4,
                )


class _States(MutableMapping[Any, Any]):
    """The states of two optimizers as one."""

    def __init__(self, joint: JointOptimizer) -> None:
        self._base, self._adversary = joint.base, joint.adversary
        self._mine = {id(p) for group in joint.adversary.param_groups for p in group["params"]}

    def __getitem__(self, key: Any) -> Any:
        return self._of(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of(key)[key]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(self._base.state, self._adversary.state)

    def __len__(self) -> int:
        return len(self._base.state) + len(self._adversary.state)

    def _of(self, key: Any) -> Any:
        return (self._adversary if id(key) in self._mine else self._base).state


def adamw(params: Iterable[Any], **options: Any) -> AdamW:
    """Return AdamW for a viewmaker, without decay if none is given, and fused where the device has it.

    Raises:
        ValueError: if an option is out of its range.
    """
    params = list(params) or [{"params": []}]  # a viewmaker of random views has none
    options = {"weight_decay": 0.0, **options}
    for group in params:
        _check_settings({**options, **group} if isinstance(group, dict) else options)
    if not options.keys() & {"fused", "foreach", "differentiable"}:
        try:
            return AdamW(params, **options, fused=True)
        except RuntimeError:  # not on this device
            pass
    return AdamW(params, **options)


@torch.no_grad()
def step_if_finite(optimizer: Optimizer) -> Tensor | None:
    """Step, or leave all as it was if a gradient is not finite or too large to be squared.

    It does not wait for the device, unless an optimizer that is not fused keeps a part of its state elsewhere.

    Returns:
        1.0 if the step was left out, else 0.0, on the device of the gradients; None if there are no gradients.
    """
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not params:
        return None
    for group in optimizer.param_groups:  # how to compute is not a matter of the state that was loaded
        group.update({name: optimizer.defaults[name] for name in _WAYS if name in optimizer.defaults})
    # As a GradScaler looks at gradients, and tells a fused optimizer what it found.
    found = torch.zeros((), device=params[0].device)
    norms = torch._foreach_norm([p.grad for p in params])
    torch._amp_foreach_non_finite_check_and_unscale_(list(norms), found, found)  # scales the norms, which are not used
    if all(group.get("fused") for group in optimizer.param_groups):
        for p in params:
            if p.grad.stride() != p.stride():  # a fused kernel goes through memory in one order
                p.grad = torch.empty_like(p).copy_(p.grad)
        optimizer.found_inf = found  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        return found
    left_out = found > 0
    before = [(p.clone(), _tensors(optimizer.state[p], clone=True)) for p in params]
    optimizer.step()
    for p, (value, state) in zip(params, before, strict=True):
        p.copy_(torch.where(left_out, value, p))
        for name, new in _tensors(optimizer.state[p]).items():  # which is 0 where this was the first step
            new.copy_(torch.where(left_out.to(new.device), state.get(name, torch.zeros_like(new)), new))
    return found


def _tensors(state: dict[str, Any], clone: bool = False) -> dict[str, Tensor]:
    return {name: value.clone() if clone else value for name, value in state.items() if isinstance(value, Tensor)}


def _check_settings(group: dict[str, Any]) -> None:
    """Raise unless the settings of a viewmaker's group are in their ranges."""
    for name, high in (("lr", math.inf), ("betas", 1), ("eps", math.inf), ("weight_decay", math.inf)):
        values = group.get(name, ()) if name == "betas" else [group.get(name, 0)]
        if not all(0 <= value < high for value in values):
            raise ValueError(f"Expected `{name}` to be within [0, {high}), but got {group[name]}.")


def _new_joint(base: type[Optimizer]) -> JointOptimizer:
    joint = JointOptimizer.of(base)  # type: ignore[arg-type]
    return joint.__new__(joint)


def _is_viewmakers(group: Any) -> bool:
    return isinstance(group, dict) and bool(group.get("viewmaker", False))
