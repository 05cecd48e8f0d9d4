"""Notice a viewmaker that is meant to learn and does not."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

# Training calls without a gradient, or gradients that hardly moved the weights, before there is a warning of it.
_PATIENCE = 100
_HARDLY = 1e-4  # a tenth of what one step of AdamW moves a weight by, at a rate of 1e-3


class Watch:
    """Warns, once, of a viewmaker that is meant to learn and does not: no gradient, or none that moves it."""

    def __init__(self) -> None:
        self._over, self._unheard, self._heard = False, 0, 0
        self._start: list[Tensor] = []

    def see(self, view: Tensor, viewmaker: nn.Module) -> None:
        """Look out for the gradient of a view."""
        if self._over or in_backward() or not any(True for _ in viewmaker.parameters()):
            return
        self._unheard += 1
        if self._unheard > _PATIENCE:
            self._end()
            warnings.warn(
                f"The viewmaker got no gradient in {_PATIENCE} training calls. Either nothing is trained on its views, "
                "or they are detached on the way to the loss, or made in a worker process, or its parameters do not "
                "require gradients. Call freeze() if it is not meant to learn.",
                stacklevel=5,
            )
        elif view.requires_grad:
            view.register_hook(lambda grad: self._hear(viewmaker))

    def __deepcopy__(self, memo: Any) -> "Watch":
        return Watch()

    def __reduce__(self) -> tuple[Any, ...]:
        return Watch, ()

    @torch.no_grad()
    def _hear(self, viewmaker: nn.Module) -> None:
        self._unheard = 0
        self._heard += 1
        if self._over or self._heard not in (1, _PATIENCE, 10 * _PATIENCE):
            return
        # Of sharded ones this process's part.
        weights = [getattr(p, "_local_tensor", p).detach() for p in viewmaker.parameters()]
        if self._heard == 1:
            self._start = [weight.clone() for weight in weights]
            return
        pairs = list(zip(weights, self._start, strict=True))
        if any(a.shape != b.shape for a, b in pairs):  # sharded only at times
            self._end()
            return
        mean = float(sum((a - b.to(a)).abs().sum() for a, b in pairs)) / sum(weight.numel() for weight in weights)
        if mean == 0 and self._heard == _PATIENCE:
            return  # gradients may be accumulated
        self._end()
        if mean < _HARDLY:
            warnings.warn(
                f"The viewmaker's weights moved by {mean:.1e} in {self._heard} gradients: under SGD and LARS they "
                "hardly do. Give them to viewaug.JointOptimizer, or to an Adam of their own.",
                stacklevel=5,
            )

    def _end(self) -> None:
        self._over, self._start = True, []


def in_backward() -> bool:
    """Whether this is called in a backward pass, as where activation checkpointing repeats a call."""
    return torch._C._current_graph_task_id() != -1
