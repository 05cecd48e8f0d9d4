"""A budget that finds itself: it grows while views are too easy for the encoder, and shrinks while too hard."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from viewaug.viewmaker import Viewmaker, check_viewmaker

# After so many steps at a bound there is a warning.
_PATIENCE = 50


class BudgetController:
    """Steers a viewmaker's budget so that the difficulty of its views stays at a target, by integral control.

    Of a viewmaker without a budget it steers the strength, which is how much of its options' range each perturbation
    uses: `share` of mix and mask, the smallest `area` and the `ratio` of crop, `drop`, `rotate` and `exchange` of
    channels, `reach` of warp, `sigma` of blur, and the ranges of affine, colour, gain and filter.

    Difficulty is the contrastive loss as a share of its value for unrelated embeddings: 0 if every view is recognised,
    1 if none is. After each step of training, the logarithm of the budget moves by
    ``gain * (1 - difficulty / target)``, at most by `gain` either way. Where views by hand below the learned ones are
    harder than the target already, the budget falls to its lower bound, of which there is a warning.

    Args:
        viewmaker: its ``budget``, or else ``strength``, is set, and where the controller starts.
        target: the difficulty to hold.
        unrelated: the loss for unrelated embeddings: ``log(2 * B - 1)`` for NT-Xent of B pairs, ``log(B)`` for InfoNCE.
        gain: the largest change of the budget's logarithm in a step.
        bounds: the smallest and the largest budget or strength; None for 0.01 and 1 of the strength, and of the budget
            for a thousandth and the whole of the viewmaker's value range, or without one, or in standard deviations, a
            hundredth and a hundred times the budget at the start.

    Raises:
        ValueError: for an argument out of its range.

    Examples:
        >>> viewmaker = viewaug.Viewmaker(budget=0.1)
        >>> controller = BudgetController(viewmaker, target=0.2, unrelated=6.24, gain=0.02)
        >>> round(controller.step(0.0), 4)  # too easy
        0.102
        >>> round(controller.step(0.2 * 6.24), 4)  # as wanted
        0.102
        >>> viewmaker.budget == controller.value
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
        check_viewmaker(viewmaker)
        for name, value in (("unrelated", unrelated), ("gain", gain)):
            if not 0 < value < math.inf:
                raise ValueError(f"Expected `{name}` to be positive, but got {value}.")
        if not 0 < target < 1:
            raise ValueError(f"Expected `target` to be between 0 and 1, but got {target}.")
        self.viewmaker, self.target, self.unrelated, self.gain = viewmaker, target, unrelated, gain
        self.steered = "strength" if viewmaker.budget is None else "budget"
        if self.steered == "strength":
            viewmaker.strength = viewmaker.strength  # or an error: there is nothing to steer
        if bounds is None:
            bounds = _bounds(viewmaker)
        if len(bounds) != 2 or not 0 < bounds[0] <= self.value <= bounds[1] < math.inf:
            now = f"{self.steered} of {self.value:g}"
            raise ValueError(f"Expected `bounds`, positive, around the viewmaker's {now}, but got {bounds}.")
        self.bounds = bounds
        self.difficulty = math.nan
        self._stuck = 0

    @property
    def value(self) -> float:
        """The budget, or the strength, now."""
        return float(getattr(self.viewmaker, self.steered))

    def step(self, loss: float | Tensor) -> float:
        """Take the loss of a step, averaged over processes, which all call it, and return the next budget or strength.

        A loss that is not finite leaves it as it is.
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
            wanted = self.value * math.exp(change)
            setattr(self.viewmaker, self.steered, min(high, max(low, wanted)))
            self._stuck = 0 if low <= wanted <= high else self._stuck + 1
            if self._stuck == _PATIENCE:
                self._warn(wanted < low)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """Return what is steered, for a checkpoint; a viewmaker's own state holds its weights only."""
        return {self.steered: self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        setattr(self.viewmaker, self.steered, state_dict[self.steered])

    def _warn(self, low: bool) -> None:
        if low:
            side, why = "lower", "views are harder than the target: by what else changes them, or to a new encoder"
            what = "Give a larger `target`, weaker views beside the learned ones, or a smaller lower bound"
        else:
            side, why = "upper", "views are easier than the target: the encoder recognises whatever they change"
            what = "Give a smaller `target`, a stronger perturbation, or larger options of it"
        warnings.warn(
            f"The {self.steered} has been at its {side} bound, {self.value:g}, for {_PATIENCE} steps, and still {why} "
            f"(difficulty {self.difficulty:.2g}, target {self.target:g}). {what}.",
            stacklevel=3,
        )


def _bounds(viewmaker: Viewmaker) -> tuple[float, float]:
    """Bounds of the strength, or of the budget in whatever units it is."""
    if viewmaker.budget is None:
        return 0.01, 1.0
    if viewmaker.value_range is None or viewmaker.units == "std":
        return viewmaker.budget / 100, 100 * viewmaker.budget
    low, high = viewmaker.value_range
    return 0.001 * (high - low), high - low
