"""Gradient reversal and the drop-in augmentation."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker, distortion, reverse_gradient
from viewaug.adversary import per_sample

BUDGET = 0.05


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(batch: int = 4, dims: int = 2, channels: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values far enough from both ends of the range that no view saturates."""
    return 0.25 + 0.5 * torch.rand(batch, channels, *(8,) * dims, dtype=dtype)


def augment(channels: int = 1, dims: int = 2, value_range=(0.0, 1.0), **options) -> AdversarialAugmentation:
    viewmaker = Viewmaker(channels, budget=BUDGET, dims=dims, value_range=value_range, width=8, depth=1)
    return AdversarialAugmentation(viewmaker, **options)


def make_encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 6))


def contrast(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Half of SimCLR's loss."""
    logits = F.normalize(one, dim=1) @ F.normalize(two, dim=1).T / 0.5
    return F.cross_entropy(logits, torch.arange(len(one)))


def seeded(function, *args):
    """Call with the same noise every time."""
    torch.manual_seed(1)
    return function(*args)


def assert_equal(ours, expected) -> None:
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


class TestReverseGradient:
    @pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -2.0])
    @pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 4)])
    def test_identity_forwards_and_scaled_gradient_backwards(self, shape, scale):
        x = torch.randn(shape, requires_grad=True)
        upstream = torch.randn(shape)
        out = reverse_gradient(x, scale)
        assert torch.equal(out, x)
        (grad,) = torch.autograd.grad(out, x, upstream)
        assert torch.equal(grad, -scale * upstream)

    def test_gradcheck(self):
        # Finite differences see the identity, which is what a scale of -1 is; twice reversed, any scale's inverse.
        x = torch.randn(3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: reverse_gradient(x, -1.0).sin(), x)
        assert torch.autograd.gradgradcheck(lambda x: reverse_gradient(x, -1.0).sin(), x)
        assert torch.autograd.gradcheck(lambda x: reverse_gradient(reverse_gradient(x, 0.5).sin(), 2.0), x)

    def test_double_backward(self):
        x = torch.randn(3, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(reverse_gradient(x, 0.5).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(first, -0.5 * 3 * x**2)
        torch.testing.assert_close(second, 0.25 * 6 * x)

    def test_vmap(self):
        x = torch.randn(4)
        grads = torch.func.vmap(torch.func.grad(lambda x: reverse_gradient(x, 0.5).sin()))(x)
        torch.testing.assert_close(grads, -0.5 * x.cos())

    def test_compile(self):
        x = torch.randn(3, requires_grad=True)
        compiled = torch.compile(lambda x: reverse_gradient(x, 0.5).sin(), backend="aot_eager", fullgraph=True)
        (grad,) = torch.autograd.grad(compiled(x).sum(), x)
        torch.testing.assert_close(grad, -0.5 * x.detach().cos())


@pytest.mark.parametrize("inputs_need_gradient", [False, True])
@pytest.mark.parametrize("transform", [None, lambda x: 0.9 * x])
def test_gradients_are_those_of_two_losses(transform, inputs_need_gradient):
    augmentation = augment(mean=0.5, std=0.25, transform=transform).double()
    viewmaker, encoder = augmentation.viewmaker, make_encoder().double()
    x = images(dtype=torch.float64).requires_grad_(inputs_need_gradient)
    theirs, mine = list(encoder.parameters()), list(viewmaker.parameters())
    wanted = [*theirs, *mine, x] if inputs_need_gradient else [*theirs, *mine]

    ours = torch.autograd.grad(contrast(*map(encoder, seeded(augmentation.views, x))), wanted)

    def plain_views() -> tuple[torch.Tensor, ...]:
        twice = torch.cat([x, x])
        return ((viewmaker(transform(twice) if transform else twice) - 0.5) / 0.25).chunk(2)

    views = seeded(plain_views)
    assert_equal(ours[: len(theirs)], torch.autograd.grad(contrast(*(encoder(v.detach()) for v in views)), theirs))
    loss = contrast(*map(encoder, views))
    assert_equal(ours[len(theirs) :][: len(mine)], torch.autograd.grad(-loss, mine, retain_graph=True))
    if inputs_need_gradient:  # whatever makes x is on the encoder's side
        assert_equal(ours[-1:], torch.autograd.grad(loss, [x]))


@pytest.mark.parametrize("gradients_off", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(
    "pair", [lambda augmentation, x: (augmentation(x), augmentation(x)), AdversarialAugmentation.views]
)
def test_learns_to_raise_the_loss(pair, gradients_off):
    augmentation, encoder, x = augment(), make_encoder().requires_grad_(False), images()
    optimizer = torch.optim.Adam(augmentation.parameters(), lr=1e-2)

    def loss() -> torch.Tensor:
        with gradients_off():
            one, two = pair(augmentation, x)
        return contrast(encoder(one), encoder(two))

    before = seeded(loss)
    before.backward()
    assert all(p.grad.any() for p in augmentation.parameters())
    for _ in range(60):  # it begins as noise, which has to be left first
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert seeded(loss) > before + 0.01


def test_inference_mode():
    augmentation, x = augment(), images()
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="inference_mode"):
            augmentation(x)
        assert torch.equal(augmentation.eval()(x), x)
        view = augmentation.train().freeze()(x)
        assert not torch.equal(view, x)


def test_view_may_be_changed_in_place():
    augmentation = augment()
    augmentation(images()).sub_(0.5).square().sum().backward()
    assert augmentation.viewmaker.generator.stem.weight.grad.any()


def test_compile():
    augmentation, x = augment(mean=0.5, warmup=2), images()
    expected = seeded(copy.deepcopy(augmentation), x)
    view = seeded(torch.compile(augmentation, backend="aot_eager", fullgraph=True), x)
    torch.testing.assert_close(view, expected)
    view.square().sum().backward()
    assert augmentation.viewmaker.generator.stem.weight.grad.any()


class TestEval:
    def test_passes_the_input_through(self):
        def transform(x):
            raise AssertionError("a transform is for training")

        augmentation, x = augment(transform=transform).eval(), images()
        assert torch.equal(augmentation(x), x)
        assert torch.equal(torch.stack(augmentation.views(x, 3)), torch.stack([x] * 3))

    def test_looks_at_no_batch(self):
        x = torch.full((1, 1, 8, 8), 7.0)
        assert torch.equal(augment().eval()(x), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5, 0.25, 0.125), (0.5, 1.0, 2.0)), (0.5, None), (None, 2.0), (torch.tensor([0.5]), (0.5, 1.0, 2.0))],
)
def test_normalises_in_training_and_in_eval(dims, mean, std):
    def normalised(x: torch.Tensor) -> torch.Tensor:
        subtract, divide = (
            torch.as_tensor(default if value is None else value).expand(3).reshape(3, *(1,) * dims)
            for value, default in ((mean, 0.0), (std, 1.0))
        )
        return (x - subtract) / divide

    augmentation, x = augment(channels=3, dims=dims, mean=mean, std=std), images(2, dims, channels=3)
    torch.testing.assert_close(seeded(augmentation, x), normalised(seeded(augmentation.viewmaker, x)))
    torch.testing.assert_close(augmentation.eval()(x), normalised(x))
    assert augmentation(x.bfloat16()).dtype == torch.bfloat16


def test_normalisation_is_not_in_the_state_dict():
    # It is configuration: a checkpoint must not bring back another one, and load where there is none.
    assert augment().state_dict().keys() == augment(mean=0.5, std=0.5).state_dict().keys()


class TestFreeze:
    def test_a_fixed_augmentation(self):
        augmentation, x = augment(warmup=10), images().requires_grad_()
        assert augmentation.freeze() is augmentation
        view = seeded(augmentation, x)
        torch.testing.assert_close(distortion(x, view), torch.full((4,), BUDGET))
        view.square().sum().backward()
        assert all(p.grad is None for p in augmentation.parameters())

    def test_input_gradient_is_not_reversed(self):
        augmentation, x = augment().freeze(), images(dtype=torch.float64).requires_grad_()
        augmentation.double()
        ours, plain = (
            torch.autograd.grad(seeded(f, x).square().sum(), x) for f in (augmentation, augmentation.viewmaker)
        )
        assert_equal(ours, plain)

    def test_undone(self):
        augmentation, x = augment(), images()
        frozen, undone = copy.deepcopy(augmentation).freeze(), copy.deepcopy(augmentation).freeze().freeze(False)
        assert "frozen=True" in repr(frozen)
        assert "frozen" not in repr(undone)
        for module in (augmentation, undone):
            seeded(module, x).square().sum().backward()
        assert_equal((p.grad for p in undone.parameters()), (p.grad for p in augmentation.parameters()))


class TestViews:
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_independent_and_made_in_one_call(self, n):
        seen = []
        augmentation, x = augment(transform=lambda x: seen.append(len(x)) or x), images(3)
        augmentation.viewmaker.register_forward_hook(lambda module, args, view: seen.append(len(view)))
        views = augmentation.views(x, n)
        assert isinstance(views, list)
        assert seen == [3] * n + [3 * n]  # each copy through the transform, one batch through the viewmaker
        assert [view.shape for view in views] == [x.shape] * n
        assert len({tuple(view.flatten().tolist()) for view in [x, *views]}) == n + 1
        for view in views:
            torch.testing.assert_close(distortion(x, view), torch.full((3,), BUDGET))

    def test_transform_runs_before_each_view(self):
        """Also one that draws once a call, as torchvision's do."""
        calls = []
        augmentation = augment(transform=lambda x: calls.append(1) or x + 0.1 * len(calls))
        one, two = augmentation.views(torch.full((2, 1, 8, 8), 0.3))
        means = torch.cat([one, two]).mean((1, 2, 3))
        torch.testing.assert_close(means, torch.tensor([0.4, 0.4, 0.5, 0.5]), rtol=0, atol=BUDGET + 1e-6)

    def test_torchvision_draws_for_each_view_or_sample(self):
        transforms = pytest.importorskip("torchvision.transforms.v2")
        crop = transforms.RandomResizedCrop(8, scale=(0.1, 0.5))
        ramp = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).expand(4, 1, 16, 16)
        torch.manual_seed(0)
        with torch.no_grad():
            one, two = augment(transform=crop).views(ramp)
            assert (one - two).abs().mean() > 0.05
            each, _ = augment(transform=per_sample(crop)).views(ramp)
        spread = [view.mean((1, 2, 3)).std() for view in (one, each)]
        assert spread[0] < 0.02 < spread[1]

    def test_batches_are_joined_after_a_transform_that_resizes(self):
        sizes = iter((6, 8, 8))
        augmentation = augment(transform=lambda x: x[..., : (side := next(sizes)), :side])
        assert [len(view[0, 0]) for view in augmentation.perturb_each([images(2)] * 3)] == [6, 8, 8]

    def test_empty_batch(self):
        assert [view.shape for view in augment().views(images(0))] == [(0, 1, 8, 8)] * 2

    @pytest.mark.parametrize("n", [0, -1])
    def test_too_few(self, n):
        with pytest.raises(ValueError, match=f"`n`.*got {n}"):
            augment().views(images(), n)


class TestNoGradMode:
    """A host that augments under no_grad trains a viewmaker on every path, normalisation included."""

    @pytest.mark.parametrize("path", ["call", "views", "each"])
    def test_learns(self, path):
        augmentation = augment(mean=[0.5], std=[0.2])
        with torch.no_grad():
            if path == "call":
                views = [augmentation(images())]
            elif path == "views":
                views = augmentation.views(images())
            else:
                views = [augmentation.normalise(view) for view in augmentation.perturb_each([images(), images()])]
        sum(view.square().sum() for view in views).backward()
        assert all(p.grad.abs().sum() > 0 for p in augmentation.viewmaker.parameters())

    def test_eval_leaves_no_graph(self):
        augmentation = augment(mean=[0.5], std=[0.2]).eval()
        with torch.no_grad():
            assert not augmentation(images().requires_grad_()).requires_grad


class TestWatch:
    """A viewmaker that is meant to learn and does not says so, once."""

    @staticmethod
    def train(augmentation, optimizer=None, steps=250, lost=False):
        for _ in range(steps):
            view = augmentation(images(2))
            loss = (view.detach() if lost else view).square().mean()
            if loss.requires_grad:
                loss.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    @pytest.mark.parametrize("how", ["detached", "thawed"])
    def test_no_gradient(self, how):
        augmentation = augment()
        if how == "thawed":  # by a host that wanted to train its head alone
            augmentation.viewmaker.requires_grad_(False)
        with pytest.warns(UserWarning, match="no gradient in 100 training calls") as warned:
            self.train(augmentation, lost=how == "detached")
        assert len(warned) == 1

    def test_hardly_moved(self):
        augmentation = augment()
        with pytest.warns(UserWarning, match="moved by .* in 100 gradients.*JointOptimizer") as warned:
            self.train(augmentation, torch.optim.SGD(augmentation.parameters(), lr=1e-6))
        assert len(warned) == 1

    def test_never_stepped(self):
        with pytest.warns(UserWarning, match="moved by 0.0e.00 in 1000 gradients"):
            self.train(augment(), steps=1000)

    @pytest.mark.parametrize("kind", ["adam", "random", "frozen", "eval", "few"])
    @pytest.mark.filterwarnings("error")
    def test_nothing_to_say(self, kind):
        augmentation = augment()
        if kind == "random":
            augmentation = AdversarialAugmentation(Viewmaker(1, budget=BUDGET, generator="random"))
        if kind == "frozen":
            augmentation.freeze()
        if kind == "eval":
            augmentation.eval()
        optimizer = torch.optim.Adam(augmentation.parameters(), 1e-3) if kind == "adam" else None
        self.train(augmentation, optimizer, steps=90 if kind == "few" else 120, lost=kind not in ("adam", "random"))


class TestFrozen:
    def test_hosts_that_thaw_it_do_not_train_it(self):
        augmentation = augment().freeze()
        augmentation.requires_grad_(True)
        make_encoder()(augmentation(images())).square().sum().backward()
        assert all(p.grad is None for p in augmentation.parameters())

    def test_momentum_does_not_go_on(self):
        augmentation, encoder = augment(), make_encoder()
        base = torch.optim.SGD(encoder.parameters(), lr=0.1)
        optimizer = JointOptimizer(base, augmentation.parameters(), lr=1e-3)
        for step in range(20):
            if step == 5:
                augmentation.freeze()
                before = [p.clone() for p in augmentation.parameters()]
            encoder(augmentation(images())).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        assert_equal(augmentation.parameters(), before)


class TestPrecision:
    def test_integers_are_refused_where_they_would_be_normalised(self):
        x = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
        assert augment().eval()(x) is x
        with pytest.raises(TypeError, match=r"`x` to be floating point.*uint8"):
            augment(mean=0.5, std=0.25).eval()(x)

    @pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize(
        "options", [{"perturbation": "additive"}, {"perturbation": "warp", "generator": "reference"}]
    )
    def test_any_input_for_any_weights(self, weights, dtype, options):
        """Views have the dtype of the input; weights are never in float16, in which Adam's moments vanish."""
        augmentation = AdversarialAugmentation(Viewmaker(1, budget=BUDGET, **options), mean=0.5).to(weights)
        held = {p.dtype for p in augmentation.viewmaker.parameters()}
        assert held == {torch.float32 if weights == torch.float16 else weights}
        x = images(dtype=dtype)
        noise = augmentation.viewmaker.draw_noise(x)
        view = augmentation.perturb(x, noise)
        assert view.dtype == augmentation(x).dtype == dtype
        assert_equal([view], [augmentation.perturb(x, noise)])
        view.float().square().sum().backward()
        optimizer = JointOptimizer(torch.optim.SGD(make_encoder().parameters(), 0.1), augmentation.parameters())
        optimizer.step()
        assert all(p.isfinite().all() for p in augmentation.viewmaker.parameters())


class TestWarmup:
    @staticmethod
    def budgets(augmentation, calls: int) -> torch.Tensor:
        x = images(2)
        return torch.stack([distortion(x, augmentation(x)).mean() for _ in range(calls)])

    def test_grows_linearly(self):
        growing = BUDGET * torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0])
        torch.testing.assert_close(self.budgets(augment(warmup=4), 5), growing)
        torch.testing.assert_close(self.budgets(augment(), 2), torch.full((2,), BUDGET))

    def test_counts_training_calls_only(self):
        augmentation, x = augment(warmup=4), images()
        augmentation.eval()(x)
        augmentation.train().freeze()(x)
        augmentation.freeze(False).views(x, 3)
        torch.testing.assert_close(self.budgets(augmentation, 1), torch.tensor([0.5 * BUDGET]))

    def test_survives_a_checkpoint(self):
        augmentation, restored = augment(warmup=4), augment(warmup=4)
        self.budgets(augmentation, 2)
        restored.load_state_dict(augmentation.state_dict())
        torch.testing.assert_close(self.budgets(restored, 1), torch.tensor([0.75 * BUDGET]))

    def test_follows_an_assigned_budget(self):
        augmentation = augment(warmup=2)
        augmentation.viewmaker.budget = 0.1
        torch.testing.assert_close(self.budgets(augmentation, 2), torch.tensor([0.05, 0.1]))


class TestFirstBatch:
    @pytest.mark.parametrize("call", ["__call__", "views"])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_normalised_already(self, call, frozen):
        x = images()
        x[0, 0, 0, 0], x[1, 0, 2, 3] = -2.125, 2.625
        with pytest.raises(ValueError, match=r"0 to 1.*from -2.125 to 2.625.*`value_range`"):
            getattr(augment().freeze(frozen), call)(x)

    @pytest.mark.parametrize("value_range", [(0.0, 1.0), None])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_not_finite(self, value, value_range):
        x = images()
        x[1, 0, 2, 3] = value
        with pytest.raises(ValueError, match=rf"`x` to be finite.*{abs(value)}"):
            augment(value_range=value_range)(x)

    @pytest.mark.parametrize("beyond", [0.0009, 0.0011])
    @pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 3.0)])
    @pytest.mark.parametrize("end", [0, 1])
    def test_tolerance(self, value_range, end, beyond):
        x = images()
        x[0, 0, 0, 0] = value_range[end] + (beyond if end else -beyond)
        augmentation = augment(value_range=value_range)
        if beyond < 1e-3:
            assert augmentation(x).isfinite().all()
        else:
            with pytest.raises(ValueError, match="value range"):
                augmentation(x)

    def test_any_range(self):
        x = 1e6 * torch.randn(2, 1, 8, 8)
        assert augment(value_range=None)(x).isfinite().all()

    def test_only_the_first_good_one(self):
        augmentation, bad = augment(), images() + 1
        augmentation(images(0))  # nothing to see in an empty one
        for _ in range(2):
            with pytest.raises(ValueError, match="value range"):
                augmentation(bad)
        augmentation(images())
        assert augmentation(bad).isfinite().all()

    def test_sees_what_the_transform_returns(self):
        assert augment(transform=lambda x: x / 255)(255 * images()).max() <= 1
        with pytest.raises(ValueError, match="value range"):
            augment(transform=lambda x: x * 255)(images())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(duplicate):
    augmentation, x = augment(mean=0.5, std=0.25, warmup=3), images()
    augmentation(x)
    copied = duplicate(augmentation)
    assert torch.equal(seeded(copied, x), seeded(augmentation, x))
    for p in copied.parameters():
        p.data.add_(1)
    assert not torch.equal(seeded(copied, x), seeded(augmentation, x))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("viewmaker", nn.Identity(), TypeError),
        ("viewmaker", None, TypeError),
        ("transform", 3, TypeError),
        ("warmup", -1, ValueError),
        ("warmup", 1.5, TypeError),
        ("warmup", True, TypeError),
        ("mean", (0.5, 0.5), ValueError),
        ("mean", [[0.5]], ValueError),
        ("mean", float("nan"), ValueError),
        ("mean", "imagenet", TypeError),
        ("std", (0.5, 0.5), ValueError),
        ("std", 0, ValueError),
        ("std", (0.5, 0.0, 0.5), ValueError),
        ("std", -0.5, ValueError),
        ("std", float("nan"), ValueError),
    ],
)
def test_bad_arguments(name, value, error):
    with pytest.raises(error, match=f"`{name}`"):
        AdversarialAugmentation(**{"viewmaker": Viewmaker(3, width=8, depth=1), name: value})


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(8, 8), ValueError),
        (torch.zeros(2, 3, 8, 8), ValueError),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), TypeError),
        ([0.5], TypeError),
    ],
)
def test_bad_input(x, error):
    with pytest.raises(error, match="`x`"):
        augment()(x)


def test_perturb_and_normalise_are_the_two_halves_of_a_call():
    viewmaker, x = Viewmaker(), torch.rand(2, 3, 8, 8)
    augmentation = AdversarialAugmentation(viewmaker, mean=0.5, std=0.25)
    noise = viewmaker.draw_noise(x)
    view = augmentation.perturb(x, noise, budget=0.02)
    assert torch.equal(view, viewmaker(x, noise, budget=0.02))
    torch.testing.assert_close(augmentation.normalise(view), (view - 0.5) / 0.25)
    view.sum().backward()
    reversed_grads = [parameter.grad.clone() for parameter in viewmaker.parameters()]
    viewmaker.zero_grad()
    viewmaker(x, noise, budget=0.02).sum().backward()
    assert all(torch.equal(a, -p.grad) for a, p in zip(reversed_grads, viewmaker.parameters(), strict=True))


def test_freezing_that_keeps_the_graph():
    augmentation = AdversarialAugmentation(Viewmaker())
    viewmaker, x = augmentation.viewmaker, torch.rand(2, 3, 8, 8, requires_grad=True)
    noise = viewmaker.draw_noise(x)
    plain = augmentation.freeze().perturb(x, noise)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    assert not any(parameter.requires_grad for parameter in viewmaker.parameters())

    view = augmentation.freeze(keep_graph=True).perturb(x, noise)
    view.square().sum().backward()
    assert torch.equal(view, plain)
    torch.testing.assert_close(x.grad, expected)
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in viewmaker.parameters())

    viewmaker.zero_grad()
    augmentation.freeze(False).perturb(x, noise).square().sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in viewmaker.parameters())


def test_warm_up_does_not_count_what_checkpointing_repeats():
    from torch.utils.checkpoint import checkpoint

    augmentation, encoder = augment(warmup=10), make_encoder()
    for _ in range(3):
        checkpoint(lambda x: encoder(augmentation(x)), images(), use_reentrant=False).square().sum().backward()
    assert augmentation._calls == 3
