"""What is spared: masks and padding, in the module and in the drop-in."""

import pytest
import torch

import viewaug
from viewaug import AdversarialAugmentation, Viewmaker, distortion
from viewaug.originals import OriginalViewmaker
from viewaug.perturbations import PERTURBATIONS

MOVING = ("warp", "affine", "crop")
NAMES = [name for name in PERTURBATIONS if name not in ("kornia", "invert", *MOVING)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def halves(*size: int) -> torch.Tensor:
    mask = torch.ones(4, 1, *size)
    mask[..., size[-1] // 2 :] = 0
    return mask


@pytest.mark.parametrize("generator", ["random", "fast"])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), None])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_spared_comes_back(name, value_range, generator):
    """Bit for bit, whatever is there, also NaN, which spreads nowhere; and the rest keeps the budget."""
    dims = 1 if name in ("gain", "filter") else 2
    if name == "colour" and value_range is None:
        return
    size = (40,) if dims == 1 else (12, 10)
    viewmaker = Viewmaker(3, dims=dims, generator=generator, perturbation=name, value_range=value_range, budget=0.05)
    x, where = torch.rand(4, 3, *size), halves(*size)
    noise = viewmaker.draw_noise(x)
    view = viewmaker(x, noise, where=where)
    kept = where.bool().expand_as(x)
    assert torch.equal(view[~kept], x[~kept])
    assert not torch.equal(view[kept], x[kept])
    spent = (view - x).abs()[kept].reshape(4, -1).mean(1)
    assert (spent <= 0.05 * (1 + 1e-5)).all()
    if name in ("additive", "spectral"):
        torch.testing.assert_close(spent, torch.full((4,), 0.05), rtol=1e-3, atol=0)
    broken = torch.where(kept, x, torch.nan)
    again = viewmaker(broken, noise, where=where)
    assert torch.equal(again[kept], view[kept])
    assert again[~kept].isnan().all()
    if generator == "fast":
        view.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in viewmaker.parameters())


def test_what_is_there_does_not_matter():
    """Nor how much padding there is: statistics are of what is kept."""
    viewmaker = Viewmaker(2, dims=1, value_range=None, units="std", budget=0.2)
    x = 5 + 3 * torch.randn(3, 2, 64)
    padded = torch.cat([x, torch.zeros(3, 2, 64)], 2)
    where = torch.ones(1, 1, 128)
    where[..., 64:] = 0
    noise = viewmaker.draw_noise(padded)
    spent = (viewmaker(padded, noise, where=where) - padded)[..., :64].abs().mean((1, 2))
    torch.testing.assert_close(spent, 0.2 * x.flatten(1).std(1, correction=0), rtol=1e-3, atol=0)


def test_lengths_are_a_mask():
    viewmaker = Viewmaker(1, dims=1, value_range=None, budget=0.1)
    x, lengths = torch.randn(3, 1, 50), torch.tensor([10, 50, 33])
    noise = viewmaker.draw_noise(x)
    where = (torch.arange(50) < lengths[:, None])[:, None]
    view = viewmaker(x, noise, lengths=lengths)
    assert torch.equal(view, viewmaker(x, noise, where=where))
    spent = [(view - x)[i, :, :n].abs().mean() for i, n in enumerate(lengths)]
    torch.testing.assert_close(torch.stack(spent), torch.full((3,), 0.1), rtol=1e-4, atol=0)
    both = viewmaker(x, noise, lengths=lengths, where=halves(50)[:3])
    assert torch.equal(both[..., 25:], x[..., 25:])
    assert torch.equal(both[0, :, 10:], x[0, :, 10:])


def test_shares_and_whole_samples():
    """A mask in between makes that share of a change; a sample without anything to change stays as it is."""
    viewmaker = Viewmaker(3, generator="random", perturbation="colour", budget=None)
    x = 0.3 + 0.4 * torch.rand(2, 3, 8, 8)
    noise = viewmaker.draw_noise(x)
    full, half = (viewmaker(x, noise, where=torch.full((1, 1, 8, 8), share)) - x for share in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2, rtol=1e-4, atol=1e-6)
    where = torch.ones(2, 1, 8, 8)
    where[1] = 0
    for budget in (0.05, None):
        view = Viewmaker(3, perturbation="mask", budget=budget)(x, where=where)
        assert torch.equal(view[1], x[1])
        assert view.isfinite().all()
    assert torch.equal(Viewmaker(3)(x, where=where)[1], x[1])


def test_channels_of_their_own():
    x, where = torch.rand(2, 3, 8, 8), torch.tensor([1, 0, 1]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    view = Viewmaker(3)(x, where=where)
    assert torch.equal(view[:, 1], x[:, 1])
    torch.testing.assert_close((view - x)[:, [0, 2]].abs().mean((1, 2, 3)), torch.full((2,), 0.05))


def test_steps_with_budgets_of_their_own():
    steps = [{"name": "mix", "budget": None}, {"name": "colour", "budget": 0.02}, "additive"]
    x, where = torch.rand(4, 3, 12, 10), halves(12, 10)
    view = Viewmaker(perturbation=steps)(x, where=where)
    assert torch.equal(view[..., 5:], x[..., 5:])
    assert (distortion(x[..., :5], view[..., :5]) > 0.03).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_in_the_drop_in(frozen):
    augmentation = AdversarialAugmentation(Viewmaker(), mean=0.5, std=0.5)
    if frozen:
        augmentation.freeze()
    x, where = torch.rand(4, 3, 12, 10), halves(12, 10)
    spared = ((x - 0.5) / 0.5)[..., 5:]
    for view in (augmentation(x, where=where), *augmentation.views(x, 3, where=where)):
        assert torch.equal(view[..., 5:], spared)
        assert not torch.equal(view[..., :5], ((x - 0.5) / 0.5)[..., :5])
    one, two = augmentation.views(x, lengths=torch.tensor([5, 10, 2, 7]))
    assert torch.equal(one[2, ..., 2:], two[2, ..., 2:])
    assert not torch.equal(one, two)
    assert one.requires_grad != frozen


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": "left"}, TypeError, "`where`.*str"),
        ({"where": torch.ones(4, 1, 12, 9)}, ValueError, r"`where`.*\(4, 1, 12, 9\)"),
        ({"where": torch.ones(3, 1, 12, 10)}, ValueError, "`where`"),
        ({"where": torch.full((1, 1, 12, 10), 2.0)}, ValueError, "between 0 and 1"),
        ({"where": torch.full((1, 1, 12, 10), torch.nan)}, ValueError, "between 0 and 1"),
        ({"lengths": torch.tensor([1, 2, 3, 11])}, ValueError, "`lengths` from 1 to 10"),
        ({"lengths": torch.tensor([0, 2, 3, 4])}, ValueError, "`lengths` from 1 to 10"),
        ({"lengths": torch.tensor([1.0, 2, 3, 4])}, ValueError, "`lengths`.*integers"),
        ({"lengths": [1, 2, 3, 4]}, ValueError, "`lengths`.*list"),
    ],
)
def test_bad_masks(options, error, message):
    with pytest.raises(error, match=message):
        viewaug.Viewmaker()(torch.rand(4, 3, 12, 10), **options)


@pytest.mark.parametrize("name", MOVING)
def test_what_moves_pixels_is_refused(name):
    with pytest.raises(ValueError, match=r"no `where` for \w+, which moves"):
        Viewmaker(perturbation=["additive", name])(torch.rand(4, 3, 12, 10), where=halves(12, 10))


def test_a_budget_of_coefficients_spares_nothing():
    viewmaker = OriginalViewmaker(3, perturbation="spectral", constraint="rescale_coefficients")
    with pytest.raises(ValueError, match="no `where`"):
        viewmaker(torch.rand(4, 3, 12, 10), where=halves(12, 10))
