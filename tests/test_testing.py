"""The tester of perturbations: ours pass, and each fault is named."""

import pytest
import torch

from viewaug.perturbations import PERTURBATIONS, Needs, Perturbation
from viewaug.testing import check_perturbation

OURS = [name for name in PERTURBATIONS if name not in ("kornia", "invert")]
SIZES = {1: (40,), 2: (12, 10), 3: (6, 5, 7)}
BOUNDLESS = ("additive", "spectral")


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("budget", [0.05, None])
@pytest.mark.parametrize("name", OURS)
def test_ours(name, budget, dims):
    if dims not in PERTURBATIONS[name].dims or (budget is None and name in BOUNDLESS):
        return
    check_perturbation(name, size=SIZES[dims], budget=budget)


class Shift(Perturbation):
    """Adds a number to a sample."""

    def needs(self, channels, dims):
        return Needs(numbers=1)

    def forward(self, x, raw):
        return x + raw.numbers.tanh()[(..., *(None,) * (x.ndim - 2))]


class Leaky(Shift):
    """What is in one sample is in all."""

    def forward(self, x, raw):
        return super().forward(x, raw) + 0.1 * x.mean()


class Fixed(Shift):
    """Always the same."""

    def forward(self, x, raw):
        return x + 0.1


class Drawing(Shift):
    """Noise that cannot be replayed."""

    def forward(self, x, raw):
        return super().forward(x, raw) + 0.1 * torch.rand_like(x)


class Detached(Shift):
    """No gradient."""

    def forward(self, x, raw):
        return super().forward(x, raw._replace(numbers=raw.numbers.detach()))


def test_a_good_one():
    check_perturbation(Shift())
    check_perturbation(Shift(), budget=None)


@pytest.mark.parametrize(
    ("perturbation", "message"),
    [
        (Leaky(), "depends on its sample alone"),
        (Fixed(), "other noise another one"),
        (Drawing(), "the same noise gives the same"),
        (Detached(), "every parameter gets a gradient"),
    ],
)
def test_faults_are_named(perturbation, message):
    with pytest.raises(AssertionError, match=message):
        check_perturbation(perturbation, budget=None)
