"""Steer views by frozen scorers: keep what these see in an input, or destroy it."""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from viewaug._checks import is_number
from viewaug.budget import full_precision, never_in, widen

Scorer = Callable[[Tensor], Tensor | Mapping[str, Tensor]]

# Of the margin on the input. A spared answer is pushed back below this share, a targeted one down to minus it: a view
# that another network may judge has to be clear of the boundary.
_CLEAR = 0.5


class Steering:
    """Adds to a view's gradient, on its way to the viewmaker, what keeps or destroys the answers of frozen scorers.

    With the gradient g that arrives, of what the viewmaker lowers, and s, that of the scorers' terms, each sample gets
    ``g + weight * |g| / |s| * s``: neither the loss's units nor the scale of mixed precision matter. The terms are
    hinges on the margin m of the scorer's own answer to the input, a logit less the largest other one, as a share of
    its margin there: ``relu(1/2 - m)`` to spare it, ``relu(m + 1/2)`` to destroy it. Where all are zero, so is s.

    Scorers are copied, in evaluation mode, and are no part of any module: not trained, and in no state dict.

    Args:
        spare: whose answer is to be kept.
        target: whose answer is to be destroyed.
        weight: of the scorers' gradient.
    """

    def __init__(self, spare: Scorer | None, target: Scorer | None, weight: float) -> None:
        if not is_number(weight):
            raise TypeError(f"Expected `weight` to be a float, but got {type(weight).__name__}.")
        if not 0 < weight < math.inf:
            raise ValueError(f"Expected `weight` to be positive, but got {weight}.")
        scorers = {"spare": spare, "target": target}
        self.weight = float(weight)
        self._scorers = {name: _frozen(name, scorer) for name, scorer in scorers.items() if scorer is not None}

    def __call__(self, x: Tensor, view: Tensor) -> Tensor:
        """Return the view of an input as it is, with what is added to its gradient."""
        return _AddDirection.apply(view, self.weight * self.direction(x, view))

    def __str__(self) -> str:
        return " and ".join(f"`{name}`" for name in self._scorers)

    def direction(self, x: Tensor, view: Tensor) -> Tensor:
        """Return the gradient of the scorers' terms by the view, of length 1 for each sample, or 0."""
        with torch.enable_grad(), full_precision(x):
            leaf = widen(view.detach()).requires_grad_()
            terms = [term for name, scorer in self._scorers.items() for term in _terms(name, scorer, x, leaf)]
            (grad,) = torch.autograd.grad(torch.cat(terms).sum(), leaf)
        return nn.functional.normalize(grad.flatten(1)).view_as(grad)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move and cast the scorers that are modules, as ``nn.Module._apply`` does, but to no half precision."""
        for scorer in self._scorers.values():
            if isinstance(scorer, nn.Module):
                scorer._apply(never_in((torch.float16, torch.bfloat16), fn))


class _AddDirection(torch.autograd.Function):
    @staticmethod
    def forward(view: Tensor, direction: Tensor) -> Tensor:
        return view.view_as(view)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (direction,) = ctx.saved_tensors
        length = torch.linalg.vector_norm(widen(grad).flatten(1), dim=1).view(-1, *(1,) * (grad.ndim - 1))
        return grad + (length * direction).to(grad.dtype), None


def _frozen(name: str, scorer: Scorer) -> Scorer:
    if not callable(scorer):
        raise TypeError(f"Expected `{name}` to be callable, but got {type(scorer).__name__}.")
    if not isinstance(scorer, nn.Module):
        return scorer
    scorer = copy.deepcopy(scorer).requires_grad_(False)
    with contextlib.suppress(NotImplementedError):  # an exported program is in evaluation mode for good
        scorer.eval()
    return scorer


def _terms(name: str, scorer: Scorer, x: Tensor, leaf: Tensor) -> list[Tensor]:
    """One term a label, of each sample."""
    weight = next(scorer.parameters(), leaf) if isinstance(scorer, nn.Module) else leaf
    logits = _by_label(name, scorer(leaf.to(weight.dtype)), len(x))
    with torch.no_grad():
        clean = _by_label(name, scorer(x.to(weight.dtype)), len(x))
    terms = []
    for label, on_view in logits.items():
        answer = clean[label].argmax(1, keepdim=True)
        share = _margin(on_view, answer) / _margin(clean[label], answer).clamp(min=1e-6)
        terms.append((_CLEAR - share if name == "spare" else share + _CLEAR).relu())
    return terms


def _margin(logits: Tensor, answer: Tensor) -> Tensor:
    """The answer's logit less the largest other one."""
    return (logits.gather(1, answer) - logits.scatter(1, answer, -math.inf).amax(1, keepdim=True)).squeeze(1)


def _by_label(name: str, logits: Any, batch: int) -> dict[str, Tensor]:
    found = dict(logits) if isinstance(logits, Mapping) else {"": logits}
    for part in found.values():
        if not isinstance(part, Tensor) or part.ndim != 2 or len(part) != batch or part.shape[1] < 2:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"Expected `{name}` to return logits of two classes or more, ({batch}, classes), or such for each "
                f"label's name, but got {got}."
            )
        if torch.is_grad_enabled() and not part.requires_grad:
            raise ValueError(f"Expected `{name}` to be differentiable, but its logits have no gradient.")
    if not found:
        raise ValueError(f"Expected `{name}` to return logits for at least one label, but got none.")
    return found
