"""A budget that finds itself: it grows while views are too easy for the encoder, and shrinks while too hard."""

import math
from typing import Any

import torch
from torch import Tensor

from viewaug.viewmaker import Viewmaker


class BudgetController:
    """Steers a viewmaker's budget so that the difficulty of its views stays at a target, by integral control.

    Difficulty is the contrastive loss as a share of its value for unrelated embeddings: 0 if every view is recognised,
    1 if none is. After each step of training, the logarithm of the budget moves by
    ``gain * (1 - difficulty / target)``, at most by `gain` either way. Where views by hand below the learned ones are
    harder than the target already, the budget falls to its lower bound: give a target above their difficulty.

    Args:
        viewmaker: its ``budget`` is set, and where the controller starts.
        target: the difficulty to hold.
        unrelated: the loss for unrelated embeddings: ``log(2 * B - 1)`` for NT-Xent of B pairs, ``log(B)`` for InfoNCE.
        gain: the largest change of the budget's logarithm in a step.
        bounds: the smallest and the largest budget; None for a thousandth and the whole of the
            viewmaker's value range, or without one, or in standard deviations, a hundredth and a hundred times the
            budget at the start.

    Raises:
        ValueError: for an argument out of its range.

    Examples:
        >>> viewmaker = viewaug.Viewmaker(budget=0.1)
        >>> controller = BudgetController(viewmaker, target=0.2, unrelated=6.24, gain=0.02)
        >>> round(controller.step(0.0), 4)  # too easy
        0.102
        >>> round(controller.step(0.2 * 6.24), 4)  # as wanted
        0.102
        >>> viewmaker.budget == controller.budget
        True
    """

    def __init__(
        self,
        viewmaker: Viewmaker,
        *,
        unrelated: float,
        target: float = 0.1,
        gain: float = 0.02,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        if not isinstance(viewmaker, Viewmaker):
            raise TypeError(f"Expected `viewmaker` to be a viewaug.Viewmaker, but got {type(viewmaker).__name__}.")
        for name, value in (("unrelated", unrelated), ("gain", gain)):
            if not 0 < value < math.inf:
                raise ValueError(f"Expected `{name}` to be positive, but got {value}.")
        if not 0 < target < 1:
            raise ValueError(f"Expected `target` to be between 0 and 1, but got {target}.")
        if bounds is None:
            bounds = _bounds(viewmaker)
        if len(bounds) != 2 or not 0 < bounds[0] <= viewmaker.budget <= bounds[1] < math.inf:
            raise ValueError(
                f"Expected `bounds`, positive, around the viewmaker's budget of {viewmaker.budget:g}, but got {bounds}."
            )
        self.viewmaker, self.target, self.unrelated = viewmaker, target, unrelated
        self.gain, self.bounds = gain, bounds
        self.difficulty = math.nan

    @property
    def budget(self) -> float:
        """The budget now."""
        return self.viewmaker.budget

    def step(self, loss: float | Tensor) -> float:
        """Take the loss of a step, averaged over processes, and return the budget for the next one.

        A loss that is not finite leaves the budget as it is.
        """
        if isinstance(loss, Tensor):
            loss = loss.detach().float()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                loss = loss.clone()
                torch.distributed.all_reduce(loss)
                loss = loss / torch.distributed.get_world_size()
        difficulty = float(loss) / self.unrelated
        if math.isfinite(difficulty):
            self.difficulty = difficulty
            change = self.gain * min(1.0, max(-1.0, 1 - difficulty / self.target))
            low, high = self.bounds
            self.viewmaker.budget = min(high, max(low, self.viewmaker.budget * math.exp(change)))
        return self.viewmaker.budget

    def state_dict(self) -> dict[str, Any]:
        """Return the budget, for a checkpoint; a viewmaker's own state holds its weights only."""
        return {"budget": self.viewmaker.budget}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.viewmaker.budget = state_dict["budget"]


def _bounds(viewmaker: Viewmaker) -> tuple[float, float]:
    """Bounds in whatever units the budget is."""
    if viewmaker.value_range is None or viewmaker.units == "std":
        return viewmaker.budget / 100, 100 * viewmaker.budget
    low, high = viewmaker.value_range
    return 0.001 * (high - low), high - low
