"""L1 budgets: against independent NumPy solutions, as properties of what comes out, and their gradients."""

import itertools
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import viewaug.budget
from viewaug.budget import (
    ValueRange,
    check_budget,
    check_value_range,
    clamp_view,
    constrain,
    distortion,
    fit_budget,
    project_to_budget,
    rescale_to_budget,
)

CONSTRAINTS = ("fit", "rescale", "project")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
RANGES = (None, (0.0, 1.0), (-2.1, 2.6), (0.0, 255.0))
UNIT = (0.0, 1.0)

each_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_range = pytest.mark.parametrize("value_range", RANGES, ids=str)
each_unit_range = pytest.mark.parametrize("value_range", [None, UNIT], ids=["unbounded", "unit"])


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN, so that what reads it before writing it shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of samples of 60 elements is worked on two samples at a time."""
    monkeypatch.setattr(viewaug.budget, "_CACHE", 130)


def batch(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs in [0, 1], perturbations of which a budget saturates some elements, and one budget a sample."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    delta = torch.randn(shape, generator=rng, dtype=torch.float64)
    budget = 0.15 + 0.15 * torch.rand(shape[0], generator=rng, dtype=torch.float64)
    return x.to(dtype), delta.to(dtype), budget


def size(delta: Tensor) -> Tensor:
    """Mean absolute value of every sample, in float64."""
    return delta.double().abs().flatten(1).mean(1)


# --- Against independent solutions -----------------------------------------------------------------------------------


def project_l1_ball(v: np.ndarray, radius: float) -> np.ndarray:
    """Project a vector onto the L1 ball by sorting (Duchi et al., ICML 2008, figure 1)."""
    if np.abs(v).sum() <= radius:
        return v
    mu = np.sort(np.abs(v))[::-1]
    levels = (np.cumsum(mu) - radius) / np.arange(1, len(mu) + 1)
    theta = levels[np.nonzero(mu > levels)[0][-1]]
    return np.sign(v) * np.maximum(np.abs(v) - theta, 0)


def bisect_scale(x: np.ndarray, delta: np.ndarray, budget: float, value_range: ValueRange) -> float:
    """The scale whose clamped view has the budget's distortion, by bisection on the view itself."""
    low, high = value_range or (-math.inf, math.inf)

    def short(scale: float) -> bool:
        view = np.clip(x + scale * delta, np.minimum(low, x), np.maximum(high, x))
        return np.abs(view - x).mean() < budget

    below, above = 0.0, 1.0
    while short(above):
        above *= 2
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if short(middle) else (below, middle)
    return above


@each_dtype
def test_distortion(dtype):
    x, delta, _ = batch(3, 2, 4, 5, dtype=dtype)
    measured = distortion(x, x + delta)
    expected = np.abs((x + delta).double().numpy() - x.double().numpy()).mean((1, 2, 3))
    assert measured.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_rescaling_is_the_papers_rule(eps):
    _, delta, budget = batch(3, 2, 4, 5)
    delta = delta * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1, 1)
    expected = delta * (budget / (size(delta) + eps)).view(3, 1, 1, 1)
    torch.testing.assert_close(rescale_to_budget(delta, budget, eps=eps), expected)


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 8, 8), (1000,)], ids=str)
@pytest.mark.parametrize("budget", [1e-4, 0.05, 0.7])
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "ties", "sparse"])
def test_projection_against_sorting(shape, budget, kind):
    delta = batch(4, *shape)[1]
    if kind == "heavy-tailed":
        delta = delta**5
    elif kind == "ties":
        delta = delta.sign()
    elif kind == "sparse":
        delta = delta * (delta.abs() > 1)
    projected = project_to_budget(delta, budget)
    expected = [project_l1_ball(v, budget * len(v)) for v in delta.flatten(1).numpy()]
    np.testing.assert_allclose(projected.flatten(1).numpy(), expected, rtol=1e-9, atol=1e-13)


@each_dtype
def test_projection_leaves_the_ball_alone(dtype):
    delta = batch(3, 2, 4, 5, dtype=dtype)[1]
    delta[0, 0, 0] = 0
    assert torch.equal(project_to_budget(delta, 1.01 * size(delta)), delta)


@pytest.mark.parametrize("value_range", [None, UNIT, (-2.1, 2.6)], ids=str)
@pytest.mark.parametrize("kind", ["inside", "binary", "beyond", "decades"])
def test_fit_against_bisection(value_range, kind):
    x, delta, budget = batch(4, 3, 5, 7)
    if kind == "binary":
        x = x.round()
    elif kind == "beyond":
        x = 1.6 * x - 0.3
    elif kind == "decades":
        delta = delta * 10 ** (8 * torch.rand_like(x) - 4)
    expected = [
        bisect_scale(*(t.numpy() for t in sample), value_range) for sample in zip(x, delta, budget, strict=True)
    ]
    np.testing.assert_allclose(fit_budget(x, delta, budget, value_range).numpy(), expected, rtol=1e-11)


def test_fit_of_a_saturated_sample_is_the_smallest_scale_that_reaches_the_most():
    x = torch.tensor([[0.5, 0.9, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    delta = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(fit_budget(x, delta, 0.5, UNIT), torch.tensor([0.5, 0.0], dtype=torch.float64))


def test_shrink_only_never_scales_up():
    x, delta, _ = batch(2, 3, 4)
    budget = 2 * size(delta) * torch.tensor([1, 0.1], dtype=torch.float64)
    for constraint in ("fit", "rescale"):
        view = constrain(x, delta, budget, None, constraint, shrink_only=True)
        torch.testing.assert_close(distortion(x, view), torch.minimum(size(delta), budget))


# --- Properties of what comes out ------------------------------------------------------------------------------------


def ulp(values: Tensor) -> Tensor:
    """Unit in the last place of every value, in float64."""
    info = torch.finfo(values.dtype)
    mantissa, exponent = values.double().abs().clamp(min=info.tiny).frexp()
    return torch.ldexp(torch.full_like(mantissa, info.eps / 2), exponent)


def accuracy(x: Tensor, view: Tensor, budget: Tensor) -> Tensor:
    """What the budget may be missed by: 1e-6 of it, and a unit in the last place of max(|x|, |view|)."""
    return 1e-6 * budget + ulp(torch.maximum(x.abs(), view.abs())).flatten(1).mean(1)


def bounds(x: Tensor, value_range: ValueRange) -> tuple[Tensor, Tensor]:
    """What a view of `x` may reach, an element beyond the range included."""
    low, high = value_range or (-math.inf, math.inf)
    return x.clamp(max=low), x.clamp(min=high)


def reach(x: Tensor, delta: Tensor, value_range: ValueRange) -> Tensor:
    """The most distortion that any multiple of `delta` has, in float64."""
    low, high = bounds(x.double(), value_range)
    room = torch.where(delta > 0, high - x, torch.where(delta < 0, x - low, 0))
    return room.flatten(1).mean(1)


@st.composite
def cases(
    draw: st.DrawFn, ranges: tuple[ValueRange, ...] = RANGES
) -> tuple[Tensor, Tensor, float | Tensor, ValueRange]:
    """Inputs, perturbations, budgets and value ranges, ordinary and extreme ones."""
    shape = (draw(st.integers(0, 3)), *draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    dtype, value_range = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(ranges))
    smallest, largest = sorted(draw(st.tuples(st.floats(-30, 4), st.floats(-30, 4))))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def uniform(low: float, high: float, *of: int) -> Tensor:
        return low + (high - low) * torch.rand(of or shape, generator=rng, dtype=torch.float64)

    def magnitude(*of: int) -> Tensor:
        return 10 ** uniform(smallest, largest, *of)

    low, high = value_range or (-3.0, 5.0)
    x = {
        "uniform": lambda: uniform(low, high),
        "constant": lambda: torch.full(shape, draw(st.sampled_from((low, (low + high) / 2, high)))),
        "binary": lambda: torch.where(uniform(0, 1) < 0.5, low, high),
        "beyond": lambda: uniform(1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low),
        "large": lambda: uniform(-1e4, 1e4) if value_range is None else uniform(low, high),
    }
    one_each = (shape[0], *(1,) * (len(shape) - 1))
    signs = uniform(-1, 1).sign()
    delta = {
        "normal": lambda: torch.randn(shape, generator=rng, dtype=torch.float64) * magnitude(*one_each),
        "decades": lambda: signs * magnitude(),
        "constant": lambda: signs * magnitude(*one_each),
        "one way": lambda: magnitude(*one_each).expand(shape),
        "sparse": lambda: signs * magnitude() * (uniform(0, 1) < 0.2),
        "spike": lambda: signs * 10**largest * (uniform(0, 1).flatten(1).argsort(1).view(shape) == 0),
        "zero": lambda: torch.zeros(shape),
    }
    budgets = st.floats(-4, 0).map(lambda exponent: 10**exponent)
    budget = draw(budgets | st.lists(budgets, min_size=shape[0], max_size=shape[0]))
    if isinstance(budget, list):
        budget = torch.tensor(budget, dtype=torch.float64)
    pick = {name: draw(st.sampled_from(sorted(kinds))) for name, kinds in {"x": x, "delta": delta}.items()}
    return x[pick["x"]]().to(dtype), delta[pick["delta"]]().to(dtype), budget, value_range


@each_constraint
@settings(max_examples=300)
@given(case=cases())
def test_what_comes_out_keeps_the_budget_and_the_range(constraint, case):
    x, delta, budget, value_range = case
    view = constrain(x, delta, budget, value_range, constraint)
    budget = torch.as_tensor(budget, dtype=torch.float64)
    spent = size(view.double() - x.double())
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert (spent <= budget + accuracy(x, view, budget)).all()

    low, high = bounds(x, value_range)
    assert ((view >= low) & (view <= high)).all()

    zero = (delta == 0).flatten(1).all(1)
    assert torch.equal(view[zero], x[zero])


@settings(max_examples=300)
@given(case=cases())
def test_fit_spends_the_whole_budget_or_all_the_room_there_is(case):
    x, delta, budget, value_range = case
    view = constrain(x, delta, budget, value_range, "fit")
    budget = torch.as_tensor(budget, dtype=torch.float64)
    missing = torch.minimum(budget, reach(x, delta, value_range)) - size(view.double() - x.double())
    assert (missing <= accuracy(x, view, budget)).all()


@pytest.mark.parametrize("constraint", ["rescale", "project"])
@settings(max_examples=300)
@given(case=cases(ranges=(None,)))
def test_without_a_range_the_others_spend_the_whole_budget(constraint, case):
    x, delta, budget, _ = case
    view = constrain(x, delta, budget, None, constraint)
    budget = torch.as_tensor(budget, dtype=torch.float64)
    most = size(delta) if constraint == "project" else reach(x, delta, None)
    missing = torch.minimum(budget, most) - size(view.double() - x.double())
    assert (missing <= accuracy(x, view, budget)).all()


@settings(max_examples=300)
@given(case=cases(ranges=(None,)))
def test_the_projection_is_optimal(case):
    _, delta, budget, _ = case
    delta = delta.to(torch.promote_types(delta.dtype, torch.float32))
    projected = project_to_budget(delta, budget)
    outside = size(delta) > (1 + 1e-6) * torch.as_tensor(budget)
    for before, after in zip(delta[outside].flatten(1), projected[outside].flatten(1), strict=True):
        support, rounding = after != 0, 4 * ulp(before.abs().max())
        assert torch.equal(after[support].sign(), before[support].sign())
        levels = before[support].double().abs() - after[support].double().abs()
        assert levels.max() - levels.min() <= rounding  # one soft threshold on the support
        assert (before[~support].abs() <= levels.max() + rounding).all()  # and nothing above it beside the support


@pytest.mark.parametrize(
    ("delta", "expected"), [([1e4], [1e-4]), ([1e4, 9e3], [2e-4, 0.0]), ([-1e4, 1e4, 1.0], [-1.5e-4, 1.5e-4, 0.0])]
)
def test_projection_of_a_perturbation_far_beyond_the_budget(delta, expected):
    # A float32 has no digits left to say how far the level of the soft threshold is below the largest element.
    torch.testing.assert_close(project_to_budget(torch.tensor([delta]), 1e-4), torch.tensor([expected]))


@each_constraint
@each_range
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_perturbations_whose_sum_overflows_keep_the_budget(constraint, value_range, dtype):
    delta = torch.finfo(dtype).max * torch.tensor([[1.0, -0.9, 0.0, 1.0]], dtype=dtype)
    x = torch.full_like(delta, 0.5)
    view = constrain(x, delta, 0.05, value_range, constraint)
    assert (size(view.double() - x.double()) <= 0.05 + accuracy(x, view, torch.tensor(0.05))).all()


@pytest.mark.parametrize("function", [rescale_to_budget, project_to_budget])
@settings(max_examples=100)
@given(case=cases(ranges=(None,)))
def test_functions_keep_shape_dtype_sign_and_zero(function, case):
    _, delta, budget, _ = case
    out = function(delta, budget)
    assert out.shape == delta.shape
    assert out.dtype == delta.dtype
    assert (out * delta.sign() >= 0).all()
    assert (out[delta == 0] == 0).all()


@each_constraint
def test_an_empty_batch(constraint):
    x = torch.rand(0, 3, 4, 4)
    for budget, value_range in itertools.product((0.1, torch.rand(0)), RANGES):
        assert constrain(x, x, budget, value_range, constraint).shape == x.shape
    assert distortion(x, x).shape == (0,)
    assert fit_budget(x, x, 0.1, UNIT).shape == (0,)


# --- Gradients -------------------------------------------------------------------------------------------------------


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.clone().requires_grad_() for t in tensors)


GRADIENT_CASES: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "distortion": lambda x, delta, budget: distortion(x, delta),
    "rescale": lambda x, delta, budget: rescale_to_budget(delta, budget),
    "rescale eps": lambda x, delta, budget: rescale_to_budget(delta, budget, eps=1e-2),
    "project": lambda x, delta, budget: project_to_budget(delta, budget),
    "fit": lambda x, delta, budget: fit_budget(x, delta, budget, UNIT),
    "fit unbounded": lambda x, delta, budget: fit_budget(x, delta, budget, None),
    "fit one budget": lambda x, delta, budget: fit_budget(x, delta, budget[0], UNIT),
}


@pytest.mark.parametrize("function", GRADIENT_CASES.values(), ids=GRADIENT_CASES)
def test_gradcheck(function):
    assert gradcheck(function, leaves(*batch(3, 2, 3, 2)))


@each_constraint
@each_unit_range
@pytest.mark.parametrize("options", [{}, {"shrink_only": True}], ids=["any scale", "shrink only"])
def test_gradcheck_of_constrain(constraint, value_range, options):
    x, delta, budget = leaves(*batch(3, 2, 4, 3))
    view = constrain(x, delta, budget, value_range, constraint)
    if value_range is not None:
        assert ((view == 0) | (view == 1)).flatten(1).any(1).all()  # some saturated elements in every sample
    assert gradcheck(lambda *inputs: constrain(*inputs, value_range, constraint, **options), (x, delta, budget))


@each_constraint
@pytest.mark.parametrize("way", [-1, 1], ids=["inwards", "outwards"])
def test_gradcheck_beyond_the_range(constraint, way):
    x, delta, budget = batch(2, 6)
    x[:, 0], delta[:, 0] = 1.3, way
    x[:, 1], delta[:, 1] = -0.2, -way
    assert gradcheck(lambda *inputs: fit_budget(*inputs, UNIT), leaves(x, delta, budget))
    assert gradcheck(lambda *inputs: constrain(*inputs, UNIT, constraint), leaves(x, delta, budget))


def test_gradcheck_of_the_projection_inside_the_ball():
    delta = batch(2, 6)[1]
    delta[:, :2] = 0  # the projection is the identity here, at zeros too: a generator may start from them
    assert gradcheck(project_to_budget, leaves(delta, 2 * size(delta)))


@each_constraint
@each_unit_range
@pytest.mark.parametrize("zeros", [1, 2], ids=["one sample", "the batch"])
@pytest.mark.usefixtures("poisoned_memory")
def test_gradients_of_a_zero_perturbation_are_finite(constraint, value_range, zeros):
    x, delta, budget = batch(2, 3, 4)
    delta[:zeros] = 0
    inputs = leaves(x, delta, budget)
    view = constrain(*inputs, value_range, constraint)
    assert torch.equal(view[:zeros], x[:zeros])
    for gradient in torch.autograd.grad(view.sum(), inputs):
        assert gradient.isfinite().all()


def saturated() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.tensor([[0.5, 0.9, 0.2, 1.0]], dtype=torch.float64)
    delta = torch.tensor([[0.7, 0.3, -0.4, 0.9]], dtype=torch.float64)
    return leaves(x, delta, torch.tensor([0.8], dtype=torch.float64))


def test_a_saturated_samples_scale_has_no_gradient():
    inputs = saturated()
    for gradient in torch.autograd.grad(fit_budget(*inputs, UNIT).sum(), inputs):
        assert (gradient == 0).all()


def test_a_saturated_samples_view_has_a_gradient_on_its_bound_alone():
    inputs = x, delta, _ = saturated()
    gradient = torch.autograd.grad(constrain(*inputs, UNIT).sum(), delta)[0]
    last = (fit_budget(*inputs, UNIT)[:, None] * delta + x).abs() == 1  # all others are beyond their bounds
    assert torch.equal(gradient != 0, last)


@pytest.mark.parametrize(
    ("pixel", "step", "derivative"),
    [(0, 0, 1), (1, 0, 1), (0, -0.1, 0), (1, 0.1, 0), (0, 0.1, 1), (1, -0.1, 1), (0.5, 0.5, 1), (0.5, -0.5, 1)],
)
def test_derivative_of_the_clamp_on_its_bounds(pixel, step, derivative):
    # torch.clamp has a derivative of 1 on its bounds up to torch 2.13, of 0 from 2.14 on; black pixels need the 1.
    x, delta = leaves(*torch.tensor([[[pixel]], [[step]]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(clamp_view(x, x + delta, UNIT).sum(), delta)
    assert gradient.item() == derivative


@each_constraint
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_unmoved_pixels_on_a_bound_have_a_gradient(constraint, pixel):
    x = torch.tensor([[pixel, 0.5, 0.5]], dtype=torch.float64)
    (delta,) = leaves(torch.tensor([[0.0, 0.2, -0.3]], dtype=torch.float64))
    view = constrain(x, delta, 0.2, UNIT, constraint)
    (gradient,) = torch.autograd.grad(view[0, 0], delta)
    assert gradient[0, 0] > 0


# --- Samples are independent -----------------------------------------------------------------------------------------


@each_constraint
@each_unit_range
@pytest.mark.parametrize("where", ["x", "delta"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_sample_stays_by_itself(constraint, value_range, where, value):
    x, delta, budget = batch(3, 3, 8, 8, dtype=torch.float32)
    others = torch.tensor([0, 2])
    clean = leaves(x[others], delta[others])
    expected = constrain(*clean, budget[others], value_range, constraint)
    (x if where == "x" else delta)[1, 0, 0, 0] = value
    spoilt = leaves(x, delta)
    view = constrain(*spoilt, budget, value_range, constraint)
    assert torch.equal(view[others], expected)
    gradients = torch.autograd.grad(view[others].square().sum(), spoilt)
    for got, want in zip(gradients, torch.autograd.grad(expected.square().sum(), clean), strict=True):
        assert torch.equal(got[others], want)


@each_constraint
@each_dtype
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_a_batch_in_parts_is_the_batch_as_a_whole(constraint, dtype, per, request):
    x, delta, budget = batch(7, 3, 4, 5, dtype=dtype)
    delta = delta * 10 ** (4 * torch.rand(delta.shape, generator=torch.Generator().manual_seed(1)) - 3).to(dtype)
    budget = 0.13 if per == "batch" else budget

    def run() -> list[Tensor]:
        inputs = leaves(x, delta)
        view = constrain(*inputs, budget, UNIT, constraint)
        return [view, *torch.autograd.grad(view.square().sum(), inputs)]

    whole = run()
    request.getfixturevalue("small_cache")
    for got, want in zip(run(), whole, strict=True):
        assert torch.equal(got, want)


@each_constraint
@each_unit_range
def test_a_fixed_number_of_steps_suffices(constraint, value_range, monkeypatch):
    # Where reading a value would synchronise, Newton's method cannot see that it has settled.
    x, delta, budget = batch(6, 3, 16, 16, dtype=torch.float32)
    x[0] = x[0].round()
    expected = constrain(x, delta, budget, value_range, constraint)
    monkeypatch.setattr(viewaug.budget, "_may_look", lambda x: False)
    torch.testing.assert_close(constrain(x, delta, budget, value_range, constraint), expected, rtol=0, atol=1e-6)


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda normal: (3 * normal).tanh(),
    "sparse": lambda normal: normal * (normal.abs() > 2),
    "decades": lambda normal: normal.sign() * (3 * normal.flip(1)).exp(),
    "dozens of decades": lambda normal: normal.sign() * (10 * normal.flip(1)).exp(),
    "powers of two": lambda normal: 2.0 ** -torch.arange(normal.shape[1]).remainder(60).expand_as(normal),
}


@pytest.mark.parametrize("kind", EXTREMES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99, 0.999])
@pytest.mark.parametrize("search", ["sorted", "newton"])
def test_searches_that_do_not_look_are_exact(search, share, kind, monkeypatch):
    """In float32, for perturbations whose elements differ by many powers of ten, up to nearly all the room there is."""
    rng = torch.Generator().manual_seed(0)
    x, delta = torch.rand(16, 2000, generator=rng), EXTREMES[kind](torch.randn(16, 2000, generator=rng))
    room = torch.where(delta > 0, 1 - x, x) * (delta != 0)
    budget = share * room.mean(1)
    monkeypatch.setattr(viewaug.budget, "_may_look", lambda x: False)
    monkeypatch.setattr(viewaug.budget, "_search", getattr(viewaug.budget, f"_{search}_search"))
    scale = fit_budget(x, delta, budget, UNIT).double()
    spent = torch.minimum(scale[:, None] * delta.double().abs(), room.double()).mean(1)
    torch.testing.assert_close(spent, budget.double(), rtol=5e-7, atol=0)


@pytest.mark.parametrize("search", ["sorted", "newton"])
def test_searches_beyond_what_there_is(search, monkeypatch):
    """No room at all, too little room, just as much as is asked for, and a sample with NaN."""
    x = torch.tensor([[1.0, 1.0], [0.9, 0.8], [0.9, 0.8], [math.nan, 0.5]])
    delta, budget = torch.tensor([[1.0, 2.0]]).expand(4, 2), torch.tensor([0.1, 0.5, 0.15, 0.1])
    monkeypatch.setattr(viewaug.budget, "_search", getattr(viewaug.budget, f"_{search}_search"))
    scale = fit_budget(x, delta, budget, UNIT)
    torch.testing.assert_close(scale[:3], torch.tensor([0.0, 0.1, 0.1]))
    assert scale[3].isnan()


@each_constraint
@each_unit_range
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
def test_channels_last_stays(constraint, value_range, parts, request):
    if parts:
        request.getfixturevalue("small_cache")
    x, delta, budget = batch(5, 3, 4, 5, dtype=torch.float32)
    expected = constrain(x, delta, budget, value_range, constraint)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, delta)]
    view = constrain(*last, budget, value_range, constraint)
    assert view.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(view, expected)


@each_constraint
@each_dtype
def test_the_view_has_the_dtype_of_the_input(constraint, dtype):
    x, delta, budget = batch(2, 3, 4, dtype=dtype)
    for other in (dtype, torch.float32, torch.bfloat16) if dtype != torch.float64 else (dtype,):
        assert constrain(x, delta.to(other), budget, UNIT, constraint).dtype == dtype


# --- Errors ----------------------------------------------------------------------------------------------------------

X = torch.full((2, 3), 0.5)

TAKES_BUDGET: dict[str, Callable[[object], object]] = {
    "rescale": lambda budget: rescale_to_budget(X, budget),
    "project": lambda budget: project_to_budget(X, budget),
    "fit": lambda budget: fit_budget(X, X, budget, UNIT),
    "fit unbounded": lambda budget: fit_budget(X, X, budget, None),
    **{f"constrain {name}": lambda budget, name=name: constrain(X, X, budget, UNIT, name) for name in CONSTRAINTS},
}
BAD_BUDGETS = [
    *((budget, ValueError) for budget in (-0.1, 0, 0.0, math.nan, math.inf, -math.inf)),
    *((torch.tensor([0.1, value]), ValueError) for value in (-0.1, 0.0, math.nan, math.inf)),
    *((budget, TypeError) for budget in (True, "0.1", None, [0.1, 0.1], torch.tensor(1), torch.tensor([True, True]))),
]
BAD_RANGES = [(1.0, 0.0), (1.0, 1.0), (0.0,), (0.0, 0.5, 1.0), (math.nan, 1.0), (0.0, math.inf), 1.0, "01", (None, 1)]


@pytest.mark.parametrize(("budget", "error"), BAD_BUDGETS, ids=str)
@pytest.mark.parametrize("function", [*TAKES_BUDGET.values(), check_budget], ids=[*TAKES_BUDGET, "check"])
def test_error_bad_budget(function, budget, error):
    with pytest.raises(error, match="`budget`"):
        function(budget)


@pytest.mark.parametrize("function", TAKES_BUDGET.values(), ids=TAKES_BUDGET)
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 3)], ids=str)
def test_error_budget_of_another_shape(function, shape):
    with pytest.raises(ValueError, match=r"`budget`.*\(2,\).* got " + re.escape(str(shape))):
        function(torch.full(shape, 0.1))


@pytest.mark.parametrize(
    "function",
    [check_value_range, lambda value: fit_budget(X, X, 0.1, value)]
    + [lambda value, name=name: constrain(X, X, 0.1, value, name) for name in CONSTRAINTS],
    ids=["check", "fit_budget", *CONSTRAINTS],
)
@pytest.mark.parametrize("value_range", BAD_RANGES, ids=str)
def test_error_bad_value_range(function, value_range):
    with pytest.raises(ValueError, match="`value_range`"):
        function(value_range)


@pytest.mark.parametrize("value_range", [*RANGES, (0, 1)], ids=str)
def test_good_value_ranges_pass(value_range):
    check_value_range(value_range)


TAKES_PAIR: dict[str, Callable[[Tensor, Tensor], object]] = {
    "distortion": distortion,
    "fit": lambda x, y: fit_budget(x, y, 0.1, UNIT),
    "fit unbounded": lambda x, y: fit_budget(x, y, 0.1, None),
    **{f"constrain {name}": lambda x, y, name=name: constrain(x, y, 0.1, UNIT, name) for name in CONSTRAINTS},
}
TAKES_SAMPLES = {
    "rescale": lambda x, y: rescale_to_budget(y, 0.1),
    "project": lambda x, y: project_to_budget(y, 0.1),
    **TAKES_PAIR,
}


@pytest.mark.parametrize("function", TAKES_PAIR.values(), ids=TAKES_PAIR)
@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (3, 3), (2, 1), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
def test_error_shapes_that_differ(function, shape, parts, monkeypatch):
    if parts:
        monkeypatch.setattr(viewaug.budget, "_CACHE", 1)
    with pytest.raises(ValueError, match=r"`(view|delta)`.*\(2, 3\)"):
        function(X, torch.rand(shape))


@pytest.mark.parametrize("function", TAKES_SAMPLES.values(), ids=TAKES_SAMPLES)
def test_error_samples_without_a_dimension(function):
    with pytest.raises(ValueError, match=r"`(x|delta)`.*\(4,\)"):
        function(torch.rand(4), torch.rand(4))


@pytest.mark.parametrize(
    "measure",
    [
        lambda x: viewaug.distortion(x, x),
        lambda x: viewaug.rescale_to_budget(x, 0.1),
        lambda x: viewaug.project_to_budget(x, 0.1),
        lambda x: viewaug.fit_budget(x, x, 0.1, None),
    ],
)
def test_integers_are_refused(measure):
    """Differences of bytes wrap round, and what is projected would be cut off."""
    with pytest.raises(TypeError, match=r"floating point.*torch\.uint8"):
        measure(torch.ones(2, 3, dtype=torch.uint8))


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
@pytest.mark.parametrize("size", [1e-15, 1e-20, 1e-30, 1e-37])
def test_derivatives_are_finite_where_values_are(size, value_range):
    x = torch.rand(3, 8)
    for options in ({}, {"shrink_only": True}, {"constraint": "rescale"}, {"constraint": "project"}):
        delta = (size * torch.randn(3, 8)).requires_grad_()
        view = constrain(x, delta, 0.1, value_range, **options)
        (grad,) = torch.autograd.grad(view.square().sum(), delta)
        assert view.isfinite().all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-3.5, 1e4)])
def test_a_sample_too_small_to_count_stays(value_range):
    """Beside a wide range its changes are below rounding, and none may be made of that."""
    x = 1e-37 * torch.rand(2, 50)
    view = constrain(x, x * torch.randn(2, 50), 1e-40, value_range, shrink_only=True)
    assert (view - x).abs().max() < 1e-35
