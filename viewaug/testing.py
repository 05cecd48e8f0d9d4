"""The properties that every perturbation must have, for ours and for anyone's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from viewaug.budget import distortion
from viewaug.perturbations import Spec
from viewaug.viewmaker import Viewmaker


def check_perturbation(
    perturbation: Spec,
    *,
    channels: int = 3,
    size: Sequence[int] = (12, 10),
    value_range: tuple[float, float] | None = (0.0, 1.0),
    budget: float | None = 0.05,
    seed: int = 0,
) -> None:
    """Check that a perturbation has the properties that those of this package have.

    Views of it keep shape and dtype and stay within the budget and the value range. The same noise gives the same view,
    other noise another one. Every parameter of a viewmaker gets a gradient, and all are finite. A sample's view depends
    on no other sample, unless the perturbation is `batched`, and what is not finite stays in its sample.

    Args:
        perturbation: as :class:`viewaug.Viewmaker` takes it.
        channels: of the input.
        size: its spatial size, of one to three sides.
        value_range: of the input; None for none.
        budget: of the views; None for a perturbation that its options bound.
        seed: of the input and the noise.

    Raises:
        AssertionError: names the property that does not hold.

    Examples:
        >>> check_perturbation("warp")
        >>> check_perturbation({"name": "mask", "share": 0.3}, size=(64,), value_range=None, budget=None)
    """
    options: dict[str, Any] = {"dims": len(size), "perturbation": perturbation, "value_range": value_range}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        low, high = value_range or (0.0, 1.0)
        x = low + (high - low) * torch.rand(4, channels, *size)
        for generator in ("random", "fast"):
            _check(Viewmaker(channels, generator=generator, budget=budget, **options), x, generator)


def _check(viewmaker: Viewmaker, x: Tensor, generator: str) -> None:
    noise = viewmaker.draw_noise(x)
    view = viewmaker(x, noise)
    with _property(f"{generator} views have the shape and the dtype of the input"):
        for dtype in (torch.float64, torch.bfloat16):
            cast = x.to(dtype)
            assert viewmaker(cast).shape == x.shape
            assert viewmaker(cast).dtype == dtype
    with _property(f"{generator} views are finite and within the value range"):
        assert view.isfinite().all()
        if viewmaker.value_range is not None:
            low, high = viewmaker.value_range
            assert view.min() >= low
            assert view.max() <= high
    with _property(f"{generator} views are within the budget, and not the input"):
        changed = distortion(x, view)
        assert (changed > 0).any()
        if viewmaker.budget is not None:
            assert (changed <= viewmaker.budget * (1 + 1e-5)).all()
    with _property(f"the same noise gives the same {generator} view, and other noise another one"):
        assert torch.equal(view, viewmaker(x, noise))
        assert not torch.equal(view, viewmaker(x))
    batched = viewmaker.perturbation.batched
    if not batched:
        with _property(f"a {generator} view depends on its sample alone"):
            alone = viewmaker(x[:1], tuple(field[:1] for field in noise))
            torch.testing.assert_close(alone, view[:1], rtol=1e-4, atol=1e-5)
    with _property(f"what is not finite stays in its sample, of {generator} views"):
        broken = x.clone()
        broken[1] = torch.nan
        rest = [0, 2, 3]
        assert viewmaker(broken, noise)[rest].isfinite().all()
        if not batched:
            torch.testing.assert_close(viewmaker(broken, noise)[rest], view[rest], rtol=1e-4, atol=1e-5)
    parameters = dict(viewmaker.named_parameters())
    if parameters:
        with _property("every parameter gets a gradient, which is finite"):
            assert view.requires_grad
            target = torch.rand(x.shape)
            grads = torch.autograd.grad((view * target).sum(), list(parameters.values()), allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                assert grad is not None, name
                assert grad.isfinite().all(), name
                assert grad.any(), name


@contextmanager
def _property(text: str) -> Iterator[None]:
    """Name a property in the error if it does not hold."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"Expected that {text}, but it does not hold. {error}".strip()) from error
