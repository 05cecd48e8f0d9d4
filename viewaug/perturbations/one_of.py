"""One of several perturbations, drawn for each view."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw
from viewaug.perturbations.sequential import Apply, Compound

Shares = Sequence[float] | Literal["learned"] | None


class OneOf(Compound):
    """Applies one perturbation to each view, drawn at random, so that masks stay masks beside what blends.

    A common budget bounds each of them by itself; within a sequence of one budget, what was drawn counts with the
    other steps. All are computed, whichever is drawn.

    Args:
        steps: the perturbations, sequences included.
        shares: how often each is drawn; None for equally often; ``"learned"`` for equally often at first, after which
            the generator decides. Then the choice is a binary concrete variable for each but the last (Maddison et
            al., ICLR 2017), with a straight-through gradient, and the bound on what ``"fast"`` learns keeps each
            decision between 1.5 and 98.5 %, at a departure of 3.

    Raises:
        ValueError: unless there are two or more perturbations, and as many positive shares.
    """

    def __init__(self, steps: Sequence[Perturbation], shares: Shares = None) -> None:
        if len(steps) < 2:
            raise ValueError(f"Expected `one_of` to hold at least two perturbations, but got {len(steps)}.")
        super().__init__(steps)
        if isinstance(shares, str):
            if shares != "learned":
                raise ValueError(f"Expected `shares` to be 'learned' or numbers, but got {shares!r}.")
        elif shares is not None and (len(shares) != len(steps) or not all(0 < share < math.inf for share in shares)):
            raise ValueError(f"Expected `shares` to be {len(steps)} positive numbers, but got {shares}.")
        self.shares = shares if shares is None or isinstance(shares, str) else [float(share) for share in shares]
        if self.shares == "learned":  # whether it is the first, or else the second, ...
            self.own_needs = Needs(numbers=len(steps) - 1)
        else:
            self.own_draws = 1

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.shares is None else {"shares": self.shares}

    @property
    def divided(self) -> bool:
        return True  # each has the common budget by itself

    def compose(self, x: Tensor, raw: Raw, apply: Apply) -> Tensor:
        views = [apply(step, x, part) for step, part in self.parts(raw)]
        chosen, weights = self._choose(self.split(raw)[-1], x)
        view = views[-1]
        for i in reversed(range(len(views) - 1)):
            view = torch.where(chosen[i], views[i], view)
        if weights is not None:  # 0, with a gradient
            view = view + sum((weight - weight.detach()) * v.detach() for weight, v in zip(weights, views, strict=True))
        return view

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        """Say which is drawn."""
        chosen, _ = self._choose(self.split(raw)[-1], x)
        left, found = torch.ones(x.shape[0], dtype=torch.bool, device=x.device), {}
        for i, step in enumerate(self):
            mine = left & chosen[i].flatten() if i < len(chosen) else left
            left = left & ~mine
            found[f"{i + 1}: {type(step).__name__.lower()} [share of views]"] = mine.to(x)
        return found

    def _choose(self, own: Raw, x: Tensor) -> tuple[list[Tensor], list[Tensor] | None]:
        """Return whether each but the last is taken, if none before it is, and weights for the gradient if learned."""
        wide = (-1, *(1,) * (x.ndim - 1))
        many = len(self.steps)
        if self.shares != "learned":
            shares = torch.tensor(self.shares or [1.0] * many, dtype=own.draws.dtype, device=own.draws.device)
            ends = shares.cumsum(0) / shares.sum()
            return [(own.draws < end).view(wide) for end in ends[:-1]], None
        # Twice a number is logistic noise, and what is learned.
        logits = [2 * own.numbers[:, i].view(wide) - math.log(many - 1 - i) for i in range(many - 1)]
        weights, rest = [], torch.ones_like(logits[0])
        for logit in logits:
            weights.append(rest * logit.sigmoid())
            rest = rest * (-logit).sigmoid()
        return [logit > 0 for logit in logits], [*weights, rest]
