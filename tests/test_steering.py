"""Sparing and targeting: the gradient that a view gets, and what becomes of it."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from viewaug import AdversarialAugmentation, Viewmaker
from viewaug.probes import Probe, load_probe, save_probe
from viewaug.steering import Steering


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(dims: int = 2, batch: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.25 + 0.5 * torch.rand(batch, 1, *(8,) * dims, dtype=dtype)


def linear(dims: int = 2, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(8**dims, classes))


def augment(dims: int = 2, budget: float = 0.1, **options) -> AdversarialAugmentation:
    return AdversarialAugmentation(Viewmaker(1, dims=dims, budget=budget, width=8, depth=1), **options)


def weights(augmentation: AdversarialAugmentation) -> list[torch.Tensor]:
    return list(augmentation.viewmaker.parameters())


def margin(scorer, x: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """Of the answer to the input, on the view, as a share of that on the input; written out sample by sample."""
    shares = []
    for on_input, on_view in zip(scorer(x), scorer(view), strict=True):
        answer = int(on_input.argmax())
        others = [i for i in range(len(on_input)) if i != answer]
        m = [logits[answer] - torch.stack([logits[i] for i in others]).max() for logits in (on_input, on_view)]
        shares.append(m[1] / m[0].detach())
    return torch.stack(shares)


def lose(view: torch.Tensor) -> torch.Tensor:
    return (view * torch.linspace(-1, 1, view[0].numel()).view(view[0].shape)).sin().square().sum()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["spare", "target"])
def test_gradient_is_that_of_two_terms(name, dims):
    """In float64, against the formula: the loss's, turned round, and the scorer's at the same length."""
    scorer = linear(dims).double()
    with torch.no_grad():  # about the middle of the range, so that some answers are close and some are not
        scorer[1].bias.copy_(-0.5 * scorer[1].weight.sum(1))
    augmentation = augment(dims, 0.1, **{name: scorer}, weight=2.0).double()
    x = images(dims, 32, dtype=torch.float64)
    noise = augmentation.viewmaker.draw_noise(x)
    ours = torch.autograd.grad(lose(augmentation.perturb(x, noise)), weights(augmentation))

    view = augmentation.viewmaker(x, noise)
    leaf = view.detach().requires_grad_()
    (g,) = torch.autograd.grad(lose(leaf), leaf)
    share = margin(scorer, x, leaf)
    (s,) = torch.autograd.grad((F.relu(0.5 - share) if name == "spare" else F.relu(share + 0.5)).sum(), leaf)
    length = [part.flatten(1).norm(dim=1) for part in (g, s)]
    active = length[1] > 0
    assert 0 < active.sum() < 32 or name == "target"
    factor = torch.where(active, 2.0 * length[0] / length[1].clamp(min=1e-30), 0)
    added = factor.view(-1, *(1,) * (dims + 1)) * s
    expected = torch.autograd.grad(view, weights(augmentation), -g + added)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in scorer.parameters())


def test_a_view_is_as_it_would_be_without():
    x, plain = images(), augment()
    noise = plain.viewmaker.draw_noise(x)
    steered = AdversarialAugmentation(plain.viewmaker, spare=linear(), target=linear())
    assert torch.equal(steered.perturb(x, noise), plain.perturb(x, noise))


def test_answers_that_are_clear_leave_the_gradient_alone():
    x = images()
    steered = augment(budget=1e-4, spare=linear())
    noise = steered.viewmaker.draw_noise(x)
    loss = lose(steered.perturb(x, noise))
    plain = lose(AdversarialAugmentation(steered.viewmaker).perturb(x, noise))
    for a, b in zip(*(torch.autograd.grad(one, weights(steered)) for one in (loss, plain)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-10])
def test_scale_of_the_loss_does_not_matter(scale):
    """As of a GradScaler: gradients are scaled as a whole."""
    augmentation, x = augment(target=linear()), images()
    noise = augmentation.viewmaker.draw_noise(x)
    one, scaled = (
        torch.autograd.grad(factor * lose(augmentation.perturb(x, noise)), weights(augmentation))
        for factor in (1.0, scale)
    )
    for a, b in zip(one, scaled, strict=True):
        torch.testing.assert_close(b / scale, a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision(dtype):
    augmentation = augment(target=linear(), spare=lambda x: {"mean": torch.stack([x.mean((1, 2, 3))] * 2, 1)})
    with torch.autocast("cpu", torch.bfloat16):
        view = augmentation(images().to(dtype))
    assert view.dtype == dtype
    view.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in weights(augmentation))


@pytest.mark.parametrize("scorer", [lambda x: 0 * x.flatten(1), lambda x: x.flatten(1)[:, :1].expand(-1, 3)])
def test_without_a_gradient_there_is_no_nan(scorer):
    """Of a scorer that sees nothing, and of a loss that does not depend on the view."""
    for factor in (1.0, 0.0):
        augmentation = augment(spare=scorer, target=scorer)
        (factor * lose(augmentation(images()))).backward()
        assert all(p.grad.isfinite().all() for p in weights(augmentation))
    assert not any(p.grad.any() for p in weights(augmentation))


@pytest.mark.parametrize("name", ["spare", "target", None])
def test_learns_to_keep_and_to_destroy(name):
    """Beside a loss that attacks the answer itself, and one that knows nothing of it."""
    side = torch.zeros(1, 1, 8, 8)
    side[..., :4] = 1 / 32

    def brighter_left(x: torch.Tensor) -> torch.Tensor:
        left = 10 * ((x * side).sum((1, 2, 3)) - (x * side.flip(-1)).sum((1, 2, 3)))
        return torch.stack([left, -left], 1)

    x = images(batch=64)
    x = x + 0.05 * side.sign() * torch.where(torch.arange(64) % 2 > 0, 1, -1).view(-1, 1, 1, 1)
    answer = brighter_left(x).argmax(1)
    options = {} if name is None else {name: brighter_left}
    augmentation = augment(budget=0.08, **options, weight=4.0)
    optimizer = torch.optim.Adam(weights(augmentation), lr=1e-2)
    for _ in range(120):
        view = augmentation(x)
        attack = F.cross_entropy(brighter_left(view), answer) if name != "target" else view.square().mean()
        optimizer.zero_grad()
        attack.backward()
        optimizer.step()
    with torch.no_grad():
        kept = (brighter_left(augmentation(x)).argmax(1) == answer).float().mean()
    low, high = {"spare": (0.95, 1), "target": (0, 0.5), None: (0, 0.7)}[name]
    assert low <= kept <= high


class TestScorers:
    def test_module_is_copied_and_no_part(self):
        scorer = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 3)).train()
        augmentation, plain = augment(spare=scorer), augment()
        assert augmentation.state_dict().keys() == plain.state_dict().keys()
        assert len(list(augmentation.modules())) == len(list(plain.modules()))
        lose(augmentation.train()(images())).backward()
        assert scorer.training
        assert scorer[1].num_batches_tracked == 0
        assert all(p.grad is None and p.requires_grad for p in scorer.parameters())
        before = augmentation._steering.direction(images(), images())
        with torch.no_grad():
            scorer[3].weight.mul_(-1)  # goes on training elsewhere
        torch.manual_seed(0)
        x = images(), images()
        assert torch.equal(augmentation._steering.direction(*x), augmentation._steering.direction(*x))
        assert before.isfinite().all()

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
    def test_copies(self, duplicate):
        augmentation = augment(target=linear())
        x, view = images(), images()
        again = duplicate(augmentation)
        assert torch.equal(again._steering.direction(x, view), augmentation._steering.direction(x, view))
        again.double()
        assert again._steering.direction(x.double(), view.double()).dtype == torch.float64
        assert augmentation._steering.direction(x, view).dtype == torch.float32

    def test_moves_with_the_augmentation(self):
        augmentation = augment(target=linear()).to("meta")
        assert {p.device.type for p in augmentation._steering._scorers["target"].parameters()} == {"meta"}
        half = augment(target=linear()).half()
        lose(half(images().half()).float()).backward()

    def test_probe_of_some_labels(self, tmp_path):
        x = images(batch=64)
        labels = {"one": torch.arange(64) % 2, "other": torch.arange(64) % 3}
        probe = Probe.fit(nn.Flatten(), x, labels)
        both, one, other = (
            Steering(None, scorer, 1.0).direction(x, x) for scorer in (probe, probe.only("one"), probe.only("other"))
        )
        assert not torch.equal(one, other)
        assert not torch.equal(both, one)
        plain = Steering(None, lambda x: probe(x)["one"], 1.0).direction(x, x)
        assert torch.equal(one, plain)
        save_probe(probe.only("one"), tmp_path / "probe.pt2", x)
        read = Steering(None, load_probe(tmp_path / "probe.pt2", trust=True), 1.0).direction(x, x)
        torch.testing.assert_close(read, one)
        with pytest.raises(ValueError, match=r"`tasks`.*'one', 'other', but got 'third'"):
            probe.only("third")

    @pytest.mark.parametrize("name", ["spare", "target"])
    @pytest.mark.parametrize(
        ("scorer", "error", "message"),
        [
            (lambda x: x, ValueError, r"logits of two classes.*\(6, 1, 8, 8\)"),
            (lambda x: x.flatten(1)[:, :1], ValueError, r"\(6, 1\)"),
            (lambda x: x.flatten(1)[:3], ValueError, r"\(6, classes\).*\(3, 64\)"),
            (lambda x: {"digit": [1.0, 2.0]}, ValueError, "list"),
            (lambda x: {}, ValueError, "at least one label"),
            (torch.no_grad()(lambda x: 2 * x.flatten(1)), ValueError, "differentiable"),
        ],
    )
    def test_wrong_output(self, name, scorer, error, message):
        with pytest.raises(error, match=f"`{name}`.*{message}"):
            augment(**{name: scorer})(images())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"spare": "digit"}, TypeError, "`spare` to be callable, but got str"),
        ({"target": 3}, TypeError, "`target` to be callable, but got int"),
        ({"spare": linear(), "weight": 0.0}, ValueError, r"`weight` to be positive, but got 0\.0"),
        ({"spare": linear(), "weight": float("inf")}, ValueError, "`weight`"),
        ({"spare": linear(), "weight": "much"}, TypeError, "`weight` to be a float, but got str"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        augment(**options)


def test_what_cannot_be_steered():
    with pytest.raises(ValueError, match="random views"):
        AdversarialAugmentation(Viewmaker(1, generator="random"), spare=linear())
    with pytest.raises(ValueError, match="`x` without a gradient where there is `spare` and `target`"):
        augment(spare=linear(), target=linear())(images().requires_grad_())


def test_no_scorer_is_called_where_nothing_learns():
    def scorer(x):
        raise AssertionError("it is called")

    augmentation, x = augment(spare=scorer), images()
    assert torch.equal(augmentation.eval()(x), x)
    assert not torch.equal(augmentation.train().freeze()(x), x)
    with pytest.raises(AssertionError, match="it is called"):
        augmentation.freeze(False)(x)


def test_in_every_call_of_the_drop_in():
    """Views of several batches, transforms, warm-up, masks, and callers without gradients."""
    seen = []

    def scorer(x):
        seen.append(tuple(x.shape))
        return x.flatten(1)[:, :3]

    augmentation = augment(target=scorer, warmup=3, transform=lambda x: x.flip(-1))
    x, where = images(), torch.ones(1, 1, 8, 8)
    where[..., :4] = 0
    with torch.no_grad():
        views = augmentation.views(x, 3, where=where)
    assert seen == [(18, 1, 8, 8)] * 2
    assert torch.equal(views[0][..., :4], x.flip(-1)[..., :4])
    lose(torch.cat(views)).backward()
    assert all(p.grad.isfinite().all() for p in weights(augmentation))
    seen.clear()
    augmentation.perturb_each([x, images()[..., :6]])
    assert seen == [(6, 1, 8, 8)] * 2 + [(6, 1, 8, 6)] * 2


def test_activation_checkpointing():
    from torch.utils.checkpoint import checkpoint

    augmentation, x = augment(target=linear()), images()
    noise = augmentation.viewmaker.draw_noise(x)
    plain = torch.autograd.grad(lose(augmentation.perturb(x, noise)), weights(augmentation))
    repeated = lose(checkpoint(augmentation.perturb, x, noise, use_reentrant=False))
    for a, b in zip(torch.autograd.grad(repeated, weights(augmentation)), plain, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_with_a_break():
    augmentation, x = augment(target=linear()), images()

    def gradients(call) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        return torch.autograd.grad(lose(call(x)), weights(augmentation))

    for a, b in zip(gradients(torch.compile(augmentation, backend="aot_eager")), gradients(augmentation), strict=True):
        torch.testing.assert_close(a, b)
