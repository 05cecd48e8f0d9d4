"""L1 budgets: measure a view's distortion, and bring a perturbation onto, into, or up to its budget.

A budget is a mean absolute difference over all non-batch dimensions of one sample, in the units of the input.
Everything here works sample by sample, in float32 or wider, and is differentiable.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from viewaug._checks import is_number
from viewaug.masks import mask_of

# Newton's method on a piecewise linear function gains at least a factor of 4 a step in (gap x slope), and typically
# ends after 4 to 6 steps. On a CPU it runs until it has settled; elsewhere looking would cost a synchronisation.
_STEPS, _CPU_STEPS = 20, 100
# Elsewhere samples of up to so many elements are sorted instead, which takes fewer launches.
_SORTED = 4096
# On a CPU a batch goes through its budget in parts of about this many elements, which stay in a core's cache.
_CACHE = 1 << 17

ValueRange = tuple[float, float] | None
Constraint = Literal["fit", "rescale", "project"]


def distortion(x: Tensor, view: Tensor, *, where: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
    """Measure the mean absolute difference of every sample between an input and its view.

    Args:
        x: the input.
        view: the view of it, of the same shape.
        where: as of :meth:`viewaug.Viewmaker.forward`: the mean is over what may change; 0 if nothing may.
        lengths: likewise.

    Shape:
        - x, view: ``(B, *)``, with at least one non-batch dimension.
        - Output: ``(B,)``, float32 or wider.

    Raises:
        ValueError: if the shapes differ or there is no non-batch dimension.

    Examples:
        >>> x = torch.zeros(2, 1, 2, 2)
        >>> distortion(x, x + torch.tensor([0.1, -0.3]).view(2, 1, 1, 1))
        tensor([0.1000, 0.3000])
    """
    if x.shape != view.shape:
        raise ValueError(f"Expected `view` to have the shape of `x`, {tuple(x.shape)}, but got {tuple(view.shape)}.")
    delta, keep = widen(view) - widen(x), mask_of(x, where, lengths)
    if keep is None:
        return _size(delta).flatten()
    kept = keep > 0
    return torch.where(kept, delta.abs(), 0).flatten(1).sum(1) / kept.flatten(1).sum(1).clamp(min=1)


def rescale_to_budget(delta: Tensor, budget: float | Tensor, *, eps: float = 0.0) -> Tensor:
    """Rescale every sample of a perturbation, up or down, onto the L1 sphere: mean ``|delta|`` becomes the budget.

    This is the rule of Viewmaker Networks (Tamkin et al., ICLR 2021, Algorithm 1). A zero sample stays zero.

    Args:
        delta: the perturbation.
        budget: mean absolute size to reach, positive; one number, or one per sample.
        eps: added to mean ``|delta|`` in the denominator. The authors' code has 1e-4, which undershoots the budget.

    Shape:
        - delta: ``(B, *)``, with at least one non-batch dimension.
        - budget: a float, ``()`` or ``(B,)``.
        - Output: as `delta`.

    Raises:
        ValueError: if `budget` is not positive and finite or has another shape.

    Examples:
        >>> rescale_to_budget(torch.tensor([[1.0, -3.0], [0.0, 0.0]]), 0.5)
        tensor([[ 0.2500, -0.7500],
                [ 0.0000,  0.0000]])
    """
    wide = widen(delta)
    return (wide * _rescaling(wide, budget, eps)).to(delta.dtype)


def project_to_budget(delta: Tensor, budget: float | Tensor) -> Tensor:
    """Project every sample of a perturbation onto the L1 ball: the nearest point with mean ``|delta|`` <= budget.

    The solution is a soft threshold (Duchi et al., ICML 2008), whose level is found by Newton's method rather than by
    sorting (Condat, Math. Program. 2016, section 3.1). A sample inside the ball is returned as it is.

    Args:
        delta: the perturbation.
        budget: largest mean absolute size, positive; one number, or one per sample. In terms of the L1 norm, the
            ball's radius is ``budget * n`` for samples of ``n`` elements.

    Shape:
        - delta: ``(B, *)``, with at least one non-batch dimension.
        - budget: a float, ``()`` or ``(B,)``.
        - Output: as `delta`.

    Raises:
        ValueError: if `budget` is not positive and finite or has another shape.

    Examples:
        >>> project_to_budget(torch.tensor([[3.0, -1.0], [0.2, 0.1]]), 1.5)
        tensor([[ 2.5000, -0.5000],
                [ 0.2000,  0.1000]])
    """
    wide = widen(delta)
    dims = _sample_dims(wide)
    size = wide.abs()
    radius = torch.as_tensor(_per_sample(budget, wide) * _numel(wide), dtype=wide.dtype, device=wide.device)

    # Counted from the largest element down, the level keeps its digits however small the radius is.
    top = size.detach().amax(dims, keepdim=True)
    gap = size - top

    def solve(gap: Tensor, radius: Tensor) -> Tensor:
        """Solve ``sum_active (gap - level) = radius``."""
        return ((gap * active).sum(dims, keepdim=True) - radius) / active.sum(dims, keepdim=True).clamp(min=1)

    fixed_gap, fixed_radius = gap.detach(), radius.detach()
    level, active = -top, torch.ones_like(fixed_gap)
    for _ in range(_steps(wide)):
        previous, level = level, torch.maximum(level, solve(fixed_gap, fixed_radius))
        torch.gt(fixed_gap, level, out=active)
        if _settled(level, previous):
            break
    shrunk = wide.sign() * (gap - solve(gap, radius)).relu()
    # What rounding left of the radius is made good here.
    shrunk = shrunk * _divide(radius, shrunk.abs().sum(dims, keepdim=True)).detach()
    outside = size.sum(dims, keepdim=True) > radius
    return torch.where(outside, shrunk, wide).to(delta.dtype)


def fit_budget(x: Tensor, delta: Tensor, budget: float | Tensor, value_range: ValueRange) -> Tensor:
    """Find the scale of a perturbation at which the clamped view has exactly the budget's distortion.

    Solves ``mean |clamp(x + scale * delta) - x| = budget`` for every sample. The left side,
    ``mean min(scale * |delta|, room)``, is concave and piecewise linear in the scale. A search, by Newton's method or
    by sorting, tells which elements are held by the range; what remains is a linear equation, which carries the
    implicit-function gradient.

    Args:
        x: the input. An element outside `value_range` is held to ``[min(low, x), max(high, x)]``.
        delta: the perturbation.
        budget: distortion to reach, positive; one number, or one per sample.
        value_range: ``(low, high)`` of the clamp; None for no clamp.

    Shape:
        - x, delta: ``(B, *)``, with at least one non-batch dimension.
        - budget: a float, ``()`` or ``(B,)``.
        - Output: ``(B,)``, float32 or wider. The smallest such scale; where the range leaves too little room, the
          smallest one that reaches the most, with a zero gradient; 0 for a zero sample.

    Raises:
        ValueError: if the shapes differ, `budget` is not positive and finite, or `value_range` is turned round.

    Examples:
        >>> x = torch.tensor([[0.5, 0.9]])
        >>> scale = fit_budget(x, torch.ones(1, 2), 0.2, (0.0, 1.0))
        >>> scale
        tensor([0.3000])
        >>> distortion(x, (x + scale * torch.ones(1, 2)).clamp(0, 1))
        tensor([0.2000])
    """
    if x.shape != delta.shape:
        raise ValueError(f"Expected `delta` to have the shape of `x`, {tuple(x.shape)}, but got {tuple(delta.shape)}.")
    check_value_range(value_range)
    return _fit(widen(x), widen(delta), budget, value_range).flatten()


def _fit(x: Tensor, delta: Tensor, budget: float | Tensor, value_range: ValueRange, most: float = math.inf) -> Tensor:
    """Find the scale as :func:`fit_budget` does, (B, 1, ...), or `most`, without a gradient, where it is larger."""
    if value_range is None:
        return _rescaling(delta, budget, most=most)

    dims = _sample_dims(x)
    total = _per_sample(budget, x) * _numel(x)
    huge, tiny = torch.finfo(x.dtype).max, torch.finfo(x.dtype).tiny * max(1.0, value_range[1] - value_range[0])

    # The bound that an element moves towards, the room up to it, and the scale at which it gets there.
    fixed_x, fixed_delta = x.detach(), delta.detach()
    bound = torch.add(fixed_x, fixed_delta, alpha=huge).clamp_(*value_range)
    sign, size = fixed_delta.sign(), fixed_delta.abs()
    room = (bound.clone() if x.requires_grad else bound).sub_(fixed_x).mul_(sign).relu_()
    ends = room / size.clamp(min=tiny)
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()  # which goes without this package
    search = _opaque_search if compiling else _search
    scale = search(size, room, ends, torch.as_tensor(total, dtype=x.dtype, device=x.device).detach())
    free = torch.gt(ends, scale, out=torch.empty_like(ends))  # 0 or 1: arithmetic with booleans is slow on a CPU

    # Implicit differentiation: with what is free and what is held given, the scale solves a linear equation.
    if x.requires_grad:
        room = (bound - x) * sign * room.sign()
    held = torch.addcmul(room, room, free, value=-1).sum(dims, keepdim=True)
    slope, least = _steady((delta * (free * sign)).sum(dims, keepdim=True)), tiny * (1 + total)
    # Where nothing is free any more, the last element to be held gives the scale, without a gradient; where the slope
    # is too small to divide by, the search does, which ends below the solution.
    stuck = slope <= least
    given = torch.minimum(scale, ends.amax(dims, keepdim=True))
    if most < math.inf:
        # Left out before the division, whose derivative overflows near zero, where the quotient does not matter.
        within = torch.minimum(most * size, room).sum(dims, keepdim=True) <= total
        stuck, given = stuck | within, given.masked_fill(within, most)
    return ((total - held) / slope.masked_fill(stuck, 1)).masked_fill(stuck, 0) + given * stuck


def _search(size: Tensor, room: Tensor, ends: Tensor, total: Tensor) -> Tensor:
    """Find a scale, ``(B, 1, ...)``, at which the same elements are free as at the solution, the faster way."""
    # On a CPU, and for large samples, sorting takes longer.
    search = _sorted_search if size.device.type != "cpu" and _numel(size) <= _SORTED else _newton_search
    return search(size, room, ends, total)


# A compiler would fuse all steps of the search into everything around it, and compute that anew in each.
_opaque_search = torch.library.custom_op("viewaug::search", _search, mutates_args=())
_opaque_search.register_fake(lambda size, room, ends, total: size.new_empty(len(size), *(1,) * (size.ndim - 1)))


def _sorted_search(size: Tensor, room: Tensor, ends: Tensor, total: Tensor) -> Tensor:
    """Find the largest of the `ends` at which no more than `total` is spent, or 0."""
    shape = (-1, *(1,) * (size.ndim - 1))
    ends, order = ends.flatten(1).sort(1, descending=True)
    slope, rest = (part.flatten(1).gather(1, order).cumsum(1) for part in (size, room))
    over = (ends * slope - rest > total.reshape(-1, 1) - rest[:, -1:]).sum(1, keepdim=True)
    return F.pad(ends, (0, 1)).gather(1, over).view(shape)


def _newton_search(size: Tensor, room: Tensor, ends: Tensor, total: Tensor) -> Tensor:
    """Find a scale at which the same elements are free as at the solution, by Newton's method.

    The tangent at any scale, below or above, reaches the total below the solution. So where it can't be seen when to
    stop, every second step looks ahead, twice as far in logarithms: after a given number of steps that is nearer where
    elements differ by many powers of ten.
    """
    dims = _sample_dims(size)
    tiny, look = torch.finfo(size.dtype).tiny, _may_look(size)
    spare = total - room.sum(dims, keepdim=True)
    # In buffers that are used again and again: on a CPU, fresh memory would cost more than the arithmetic.
    free, work = torch.empty_like(size), torch.empty_like(size)
    scale = place = torch.zeros_like(spare)
    for step in range(_steps(size)):
        torch.gt(ends, place, out=free)
        slope = torch.mul(size, free, out=work).sum(dims, keepdim=True)
        reached = (spare + torch.mul(room, free, out=work).sum(dims, keepdim=True)) / slope.clamp(min=tiny)
        previous, scale = scale, torch.where(slope > 0, torch.maximum(scale, reached), scale)
        place = scale
        if _settled(scale, previous):
            break
        if not look and step % 2:
            place = scale * (scale / previous.clamp(min=tiny))
    return scale


def constrain(
    x: Tensor,
    delta: Tensor,
    budget: float | Tensor,
    value_range: ValueRange,
    constraint: Constraint = "fit",
    *,
    eps: float = 0.0,
    shrink_only: bool = False,
) -> Tensor:
    """Make the view ``x + delta`` within a budget and a value range.

    Args:
        x: the input.
        delta: the perturbation.
        budget: as in :func:`fit_budget`.
        value_range: as in :func:`fit_budget`.
        constraint: ``"fit"`` scales so that the clamped view has the budget's distortion. ``"rescale"`` and
            ``"project"`` bound the perturbation and then clamp, so that the clamp may eat part of the budget;
            ``"rescale"`` is the order of the papers.
        eps: as in :func:`rescale_to_budget`, for ``"rescale"``.
        shrink_only: never scale up.

    Shape:
        - x, delta, output: ``(B, *)``, with at least one non-batch dimension.
        - budget: a float, ``()`` or ``(B,)``.

    Examples:
        >>> x = torch.tensor([[0.5, 0.9]])
        >>> constrain(x, torch.ones(1, 2), 0.2, (0.0, 1.0))
        tensor([[0.8000, 1.0000]])
        >>> constrain(x, torch.ones(1, 2), 0.2, (0.0, 1.0), "rescale")
        tensor([[0.7000, 1.0000]])
    """
    if x.shape != delta.shape:
        raise ValueError(f"Expected `delta` to have the shape of `x`, {tuple(x.shape)}, but got {tuple(delta.shape)}.")
    if constraint not in get_args(Constraint):
        raise ValueError(f"Expected `constraint` to be one of {get_args(Constraint)}, but got {constraint!r}.")
    check_value_range(value_range)
    rows = max(1, _CACHE // max(1, _numel(x)))
    if _may_look(x) and len(x) > rows:
        budget = _per_sample(budget, x)
        budgets = budget.flatten().expand(len(x)).split(rows) if isinstance(budget, Tensor) else repeat(budget)
        parts = zip(x.split(rows), delta.split(rows), budgets, strict=False)
        return torch.cat(
            [constrain(*part, value_range, constraint, eps=eps, shrink_only=shrink_only) for part in parts]
        )

    wide, delta = widen(x), widen(delta)
    if constraint == "project":
        delta = project_to_budget(delta, budget)
    else:
        most = 1.0 if shrink_only else math.inf
        if constraint == "fit":
            delta = delta * _fit(wide, delta, budget, value_range, most)
        else:
            delta = delta * _rescaling(delta, budget, eps, most)
    return clamp_view(wide, wide + delta, value_range).to(x.dtype)


def clamp_view(x: Tensor, view: Tensor, value_range: ValueRange) -> Tensor:
    """Clamp a view into a range, in which an element of `x` outside it may stay where it is."""
    if value_range is None:
        return view
    low, high = value_range
    if _may_look(x) and x.numel():  # several times as fast
        if _inside(view, low, high):
            return view
        if _inside(x, low, high):
            return _Clamp.apply(view, low, high)
    if x.requires_grad:  # torch.where is slow on a CPU, but has one derivative on all versions of torch
        return _Clamp.apply(view, torch.where(x < low, x, low), torch.where(x > high, x, high))
    return _Clamp.apply(view, x.clamp(max=low), x.clamp(min=high))


def _inside(x: Tensor, low: float, high: float) -> bool:
    least, most = x.detach().aminmax()
    return bool((least >= low) & (most <= high))


class _Clamp(torch.autograd.Function):
    """Clamp with a derivative of 1 on its bounds, where an image has all its black and white pixels.

    ``torch.clamp`` has that derivative up to torch 2.13, and 0 from 2.14 on.
    """

    @staticmethod
    def forward(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        return x.clamp(low, high)  # type: ignore[arg-type] # both are of one type

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | float, Tensor | float], output: Tensor) -> None:
        x, low, high = inputs
        needed = ctx.needs_input_grad
        ctx.save_for_backward(
            x != output if needed[0] else None, x >= low if needed[1] else None, x <= high if needed[2] else None
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if mask is None else grad.masked_fill(mask, 0) for mask in ctx.saved_tensors)


def check_value_range(value_range: ValueRange) -> None:
    """Raise a ValueError unless a value range is None or ``(low, high)`` with low < high."""
    if value_range is None:
        return
    try:
        low, high = value_range
        ordered = math.isfinite(low) and math.isfinite(high) and low < high
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        raise ValueError(f"Expected `value_range` to be None or (low, high) with low < high, but got {value_range}.")


def check_budget(budget: float | Tensor) -> None:
    """Raise unless a budget is positive and finite; the values of a tensor elsewhere than on the CPU are not read."""
    if isinstance(budget, Tensor):
        if not budget.is_floating_point():
            raise TypeError(f"Expected `budget` to be a floating point tensor, but got {budget.dtype}.")
        if not _may_look(budget):
            return
        right = bool(((budget > 0) & budget.isfinite()).all())
    elif not is_number(budget):
        raise TypeError(f"Expected `budget` to be a float or a tensor, but got {type(budget).__name__}.")
    else:
        right = 0 < budget < math.inf
    if not right:
        raise ValueError(f"Expected `budget` to be positive and finite, but got {budget}.")


def widen(x: Tensor) -> Tensor:
    """Cast half precision to float32, in which a budget can be counted; leave float32 and float64 as they are.

    Raises:
        TypeError: for any other dtype: a difference of bytes would wrap round, and a view in integers be cut off.
    """
    if not x.is_floating_point():
        raise TypeError(f"Expected floating point tensors, in which a budget can be counted, but got {x.dtype}.")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def never_in(narrow: tuple[torch.dtype, ...], fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what moves and casts as a function of ``nn.Module._apply``, but to no narrow dtype."""

    def apply(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return tensor.to(moved.device) if moved.dtype in narrow else moved

    return apply


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of `x`, if it has any; an exported program cannot hold that."""
    kind, compiling = x.device.type, torch.compiler.is_compiling()  # into which torch 2.9 takes no question
    if torch.compiler.is_exporting() or not (kind != "meta" if compiling else torch.amp.is_autocast_available(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _sample_dims(x: Tensor) -> tuple[int, ...]:
    if x.ndim < 2:
        raise ValueError(f"Expected `x` to have the shape (B, *), but got {tuple(x.shape)}.")
    return tuple(range(1, x.ndim))


def _numel(x: Tensor) -> int:
    return math.prod(x.shape[1:])


def _size(delta: Tensor) -> Tensor:
    """Mean absolute value of every sample, (B, 1, ...)."""
    return delta.abs().mean(_sample_dims(delta), keepdim=True)


def _rescaling(delta: Tensor, budget: float | Tensor, eps: float = 0.0, most: float = math.inf) -> Tensor:
    """The factor that brings `delta` onto the sphere, (B, 1, ...), or `most` where it is larger."""
    size, budget = _steady(_size(delta)), _per_sample(budget, delta)
    if most == math.inf:
        return _divide(budget, size + eps, where=size > 0)
    larger = most * (size + eps) <= budget
    return torch.where(larger, most, budget / torch.where(larger, 1, size + eps))


def _steady(size: Tensor) -> Tensor:
    """Keep a size from the gradient where the derivative of something divided by it would overflow."""
    return torch.where(size > torch.finfo(size.dtype).tiny ** 0.5, size, size.detach()) if size.requires_grad else size


def _per_sample(budget: float | Tensor, x: Tensor) -> Tensor | float:
    """A budget as a (B, 1, ...) or (1, 1, ...) tensor beside `x`, or the number that it is."""
    check_budget(budget)
    if not isinstance(budget, Tensor):
        return budget
    budget = budget.to(x.device, torch.promote_types(x.dtype, torch.float32))
    if budget.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"Expected `budget` to be one number or {tuple(x.shape[:1])}, by sample, but got {tuple(budget.shape)}."
        )
    return budget.reshape(-1, *(1,) * (x.ndim - 1))


def _divide(numerator: Tensor | float, denominator: Tensor, where: Tensor | None = None) -> Tensor:
    """Quotient that is 0, with a zero gradient, where the denominator is, and finite where that is subnormal."""
    where = denominator > 0 if where is None else where
    quotient = numerator / torch.where(where, denominator, 1)
    return torch.where(where, quotient, 0).clamp(max=torch.finfo(quotient.dtype).max)


def _steps(x: Tensor) -> int:
    return _CPU_STEPS if _may_look(x) else _STEPS


def _settled(new: Tensor, old: Tensor) -> bool:
    """Whether a step was one of rounding alone, for every sample that has no NaN."""
    return _may_look(new) and not bool(((new - old).abs() > 2 * torch.finfo(new.dtype).eps * new.abs()).any())


def _may_look(x: Tensor) -> bool:
    """Whether reading a value costs neither a device synchronisation nor a graph break."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
