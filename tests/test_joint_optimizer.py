"""One optimizer for both players."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from lightly.utils.lars import LARS
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from viewaug import JointOptimizer, Viewmaker

BASES = {
    "sgd": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "adamw": (AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "lars": (LARS, {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-3}),
}
bases = pytest.mark.parametrize("base", BASES)
broken_values = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])


def make_base(name: str, params) -> torch.optim.Optimizer:
    cls, options = BASES[name]
    return cls(params, **options)


class Game:
    """Two players and their optimizer; gradients are random, so that each player's path is its own."""

    def __init__(self, base: str = "sgd", dtype: torch.dtype = torch.float32, **options) -> None:
        torch.manual_seed(0)
        self.base = base
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).to(dtype)
        self.viewmaker = Viewmaker(1, width=8, depth=1).to(dtype)
        self.optimizer = JointOptimizer(
            make_base(base, self.encoder.parameters()), self.viewmaker.parameters(), **options
        )

    def step(self, seed: int, broken: float | None = None) -> None:
        give_gradients(self.encoder, seed)
        give_gradients(self.viewmaker, seed)
        if broken is not None:
            self.viewmaker.generator.head.bias.grad[0] = broken
        self.optimizer.step()

    def values(self) -> list[torch.Tensor]:
        return values(self.encoder) + values(self.viewmaker)


def give_gradients(module: nn.Module, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=source, dtype=p.dtype)


def values(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moments(game: Game) -> list[torch.Tensor]:
    return [state.clone() for p in game.viewmaker.parameters() for state in game.optimizer.state[p].values()]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class TestRules:
    @bases
    def test_encoder_path_is_the_plain_optimizers(self, base):
        game = Game(base)
        plain = copy.deepcopy(game.encoder)
        optimizer = make_base(base, plain.parameters())
        for seed in range(5):
            game.step(seed)
            give_gradients(plain, seed)
            optimizer.step()
            assert same(values(game.encoder), values(plain))

    @bases
    def test_joins_an_optimizer_that_has_stepped(self, base):
        encoder = nn.Linear(4, 3)
        plain = copy.deepcopy(encoder)
        ours, theirs = make_base(base, encoder.parameters()), make_base(base, plain.parameters())
        for seed in range(4):
            if seed == 2:
                ours = JointOptimizer(ours, Viewmaker(1, width=8, depth=1).parameters())
            for module, optimizer in ((encoder, ours), (plain, theirs)):
                give_gradients(module, seed)
                optimizer.step()
        assert same(values(encoder), values(plain))

    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    @pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_viewmaker_path_is_adams(self, dtype, betas, weight_decay):
        settings = {"lr": 3e-3, "betas": betas, "eps": 1e-6, "weight_decay": weight_decay}
        game = Game(dtype=dtype, **settings)
        plain = copy.deepcopy(game.viewmaker)
        optimizer = AdamW(plain.parameters(), **settings)  # Adam, where there is no decay
        for seed in range(10):
            game.step(seed)
            give_gradients(plain, seed)
            optimizer.step()
        torch.testing.assert_close(values(game.viewmaker), values(plain), rtol=0, atol=1e-6)

    def test_groups_are_the_encoders_then_the_viewmakers(self):
        game = Game(lr=2e-3)
        assert [group["lr"] for group in game.optimizer.param_groups] == [0.1, 2e-3]
        assert [group.get("viewmaker", False) for group in game.optimizer.param_groups] == [False, True]
        ours = [p for group in game.optimizer.param_groups for p in group["params"]]
        assert all(
            a is b for a, b in zip(ours, [*game.encoder.parameters(), *game.viewmaker.parameters()], strict=True)
        )

    def test_no_gradient_no_step(self):
        game = Game()
        game.step(0)
        before = values(game.viewmaker), moments(game)
        game.optimizer.zero_grad()
        assert all(p.grad is None for module in (game.encoder, game.viewmaker) for p in module.parameters())
        give_gradients(game.encoder, 1)  # the viewmaker is frozen
        game.optimizer.step()
        assert same(values(game.viewmaker), before[0])
        assert same(moments(game), before[1])
        give_gradients(game.viewmaker.generator.stem, 2)  # and now a part of it learns
        game.optimizer.step()
        changed = [not torch.equal(a, b) for a, b in zip(values(game.viewmaker), before[0], strict=True)]
        assert sum(changed) == 2

    def test_closure(self):
        game = Game()
        plain = Game()
        plain.step(3)

        def closure() -> float:
            give_gradients(game.encoder, 3)
            give_gradients(game.viewmaker, 3)
            return 0.25

        assert game.optimizer.step(closure) == 0.25
        assert same(game.values(), plain.values())

    def test_does_not_wait_for_the_device(self):
        class NoReading(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                assert "_local_scalar_dense" not in str(func)
                return func(*args, **(kwargs or {}))

        game = Game()
        game.step(0)
        with NoReading():
            game.step(1)
            game.step(2, broken=float("nan"))
        with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
            torch.ones(1).item()  # the check sees what it is meant to see


class TestNonFinite:
    @broken_values
    @pytest.mark.parametrize("good", [0, 2])
    def test_leaves_the_viewmaker_as_it_was(self, good, value):
        game, plain = Game(weight_decay=0.1), Game(weight_decay=0.1)
        for seed in range(good):
            game.step(seed)
            plain.step(seed)
        encoder, viewmaker, kept = values(game.encoder), values(game.viewmaker), moments(game)
        game.step(10, broken=value)
        assert same(values(game.viewmaker), viewmaker)
        assert same(moments(game), kept or [torch.zeros_like(state) for state in moments(game)])
        assert not same(values(game.encoder), encoder)
        # and the next step is what it would have been
        game.step(11)
        plain.step(11)
        assert same(values(game.viewmaker), values(plain.viewmaker))
        assert same(moments(game), moments(plain))

    def test_counted_and_warned_about(self):
        game = Game()
        game.step(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert game.optimizer.skipped_steps == 0
            game.step(1, broken=float("nan"))
            game.step(2, broken=float("inf"))
            game.step(3)
        with pytest.warns(RuntimeWarning, match="2 steps"):
            assert game.optimizer.skipped_steps == 2

    @bases
    def test_encoders_gradients_are_the_bases_affair(self, base):
        game, plain = Game(base), Game(base)
        plain.step(0)
        give_gradients(game.encoder, 0)
        give_gradients(game.viewmaker, 0)
        game.encoder[0].bias.grad[0] = float("nan")
        game.optimizer.step()
        assert same(values(game.viewmaker), values(plain.viewmaker))
        assert game.optimizer.skipped_steps == 0

    def test_gradient_whose_square_overflows(self):
        game = Game()
        game.step(0, broken=1e30)
        for seed in range(1, 4):
            game.step(seed)
        assert all(p.isfinite().all() for p in game.viewmaker.parameters())

    def test_without_eps(self):
        game = Game(eps=0.0)
        viewmaker = values(game.viewmaker)
        game.step(0, broken=float("nan"))
        assert same(values(game.viewmaker), viewmaker)


def through_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def resumed(game: Game) -> Game:
    fresh = Game(game.base)
    for name in ("encoder", "viewmaker", "optimizer"):
        getattr(fresh, name).load_state_dict(through_file(getattr(game, name).state_dict()))
    return fresh


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda game: pickle.loads(pickle.dumps(game))}
copies = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


class TestState:
    @bases
    @pytest.mark.parametrize("duplicate", [resumed, *COPIES.values()], ids=["resumed", *COPIES])
    def test_goes_on_bit_for_bit(self, duplicate, base):
        game = Game(base)
        for seed in range(3):
            game.step(seed)
        game.optimizer.param_groups[1]["lr"] = 2e-3
        copied = duplicate(game)
        before = game.values()
        for seed in range(3, 6):
            copied.step(seed)
        assert same(game.values(), before)  # the copy shares nothing
        for seed in range(3, 6):
            game.step(seed)
        assert same(copied.values(), game.values())
        assert same(moments(copied), moments(game))

    @pytest.mark.parametrize("duplicate", [resumed, *COPIES.values()], ids=["resumed", *COPIES])
    def test_copies_keep_the_count(self, duplicate):
        game = Game()
        game.step(0, broken=float("nan"))
        with pytest.warns(RuntimeWarning):
            assert duplicate(game).optimizer.skipped_steps == 1

    def test_schedule_reaches_both_parts_after_loading(self):
        game = Game()
        game.step(0)
        fresh = resumed(game)
        for group in fresh.optimizer.param_groups:
            group["lr"] = 0.0
        before = fresh.values()
        fresh.step(1)
        assert same(fresh.values(), before)


class Slow(torch.optim.Optimizer):
    """Lookahead, as timm has it: everything is in the optimizer that it wraps, state and groups."""

    def __init__(self, params, **options):
        self.inner = SGD(params, **options)
        self.param_groups, self.defaults = self.inner.param_groups, self.inner.defaults
        self.state = {}

    def step(self, closure=None):
        self.inner.step(closure)
        for p in self.param_groups[0]["params"]:
            state = self.inner.state[p]
            slow = state.setdefault("slow", p.detach().clone())
            state["count"] = state.get("count", 0) + 1
            if state["count"] % 2 == 0:
                slow.lerp_(p.detach(), 0.5)
                p.data.copy_(slow)

    def state_dict(self):
        return {**self.inner.state_dict(), "kind": "slow"}

    def load_state_dict(self, state_dict):
        assert state_dict["kind"] == "slow"
        self.inner.load_state_dict(state_dict)
        self.param_groups = self.inner.param_groups


class TestBorrowedState:
    """Bases that override how they save and load."""

    @staticmethod
    def game(kind) -> Game:
        game = Game()
        base = kind(game.encoder.parameters(), lr=0.1, momentum=0.9)
        game.optimizer = JointOptimizer(base, game.viewmaker.parameters(), lr=1e-3)
        return game

    @staticmethod
    def lookahead(params, **options):
        return pytest.importorskip("timm.optim").Lookahead(SGD(params, **options), k=2)

    @pytest.mark.parametrize("kind", ["slow", "lookahead"])
    def test_goes_on_and_follows_its_schedule(self, kind):
        make = Slow if kind == "slow" else self.lookahead
        game, other = self.game(make), self.game(make)
        for seed in range(3):
            game.step(seed)
        for name in ("encoder", "viewmaker", "optimizer"):
            getattr(other, name).load_state_dict(through_file(getattr(game, name).state_dict()))
        for each in (game, other):
            scheduler = lr_scheduler.StepLR(each.optimizer, 1, 0.5)
            for seed in range(3, 6):
                each.step(seed)
                scheduler.step()
        assert same(game.values(), other.values())
        assert other.optimizer.base.param_groups[0]["lr"] == pytest.approx(0.1 / 8)
        for group in other.optimizer.param_groups:
            group["lr"] = 0.0
        before = values(other.viewmaker)
        other.step(7)
        assert same(values(other.viewmaker), before)

    def test_moments_keep_their_dtype(self):
        """Torch casts a state to its parameter's dtype unless the optimizer says otherwise, as those of 8 bits do."""

        class Quantised(SGD):
            def load_state_dict(self, state_dict):
                super().load_state_dict(state_dict)
                for p, state in zip(self.param_groups[0]["params"], state_dict["state"].values(), strict=True):
                    self.state[p] = dict(state)

        game = self.game(Quantised)
        game.step(0)
        state = game.optimizer.state_dict()
        state["state"][0]["quantised"] = torch.arange(3, dtype=torch.uint8)
        game.optimizer.load_state_dict(state)
        first = next(iter(game.encoder.parameters()))
        assert game.optimizer.state[first]["quantised"].dtype == torch.uint8

    def test_state_is_both_parts(self):
        game = Game()
        game.step(0)
        state, both = game.optimizer.state, [*game.encoder.parameters(), *game.viewmaker.parameters()]
        assert len(state) == len(both)
        assert set(map(id, state)) == set(map(id, both))
        for p, value in state.items():  # as Lightning moves it to a device
            state[p] = {name: v.clone() for name, v in value.items()}
        assert game.optimizer.adversary.state[both[-1]] is game.optimizer.state[both[-1]]
        del state[both[0]]
        assert both[0] not in game.optimizer.base.state

    def test_order_of_groups_survives(self):
        game, *_ = TestAddParamGroup.extended()
        flags = [group.get("viewmaker", False) for group in game.optimizer.param_groups]
        assert flags == [False, True, False, True]
        game.optimizer.load_state_dict(game.optimizer.state_dict())
        for optimizer in (game.optimizer, copy.deepcopy(game.optimizer)):
            assert [group.get("viewmaker", False) for group in optimizer.param_groups] == flags

    def test_sharpness_aware(self):
        """Two steps, of which the second moves the viewmaker, too; its gradients go with the others."""

        class Sharp(SGD):
            def first_step(self, zero_grad=False):
                self.first = True

            def second_step(self, zero_grad=False):
                self.step()
                if zero_grad:
                    self.zero_grad()

        game = self.game(Sharp)
        give_gradients(game.encoder, 0)
        give_gradients(game.viewmaker, 0)
        before = game.values()
        game.optimizer.first_step(zero_grad=False)
        assert game.optimizer.base.first
        assert same(game.values(), before)
        game.optimizer.second_step(zero_grad=True)
        assert not any(same([a], [b]) for a, b in zip(game.values(), before, strict=True))
        assert all(not p.grad.any() if p.grad is not None else True for p in game.viewmaker.parameters())

    def test_schedule_free(self):
        base = pytest.importorskip("schedulefree").SGDScheduleFree
        game = Game()
        game.optimizer = JointOptimizer(base(game.encoder.parameters(), lr=0.1), game.viewmaker.parameters())
        game.optimizer.train()
        game.step(0)
        trained = values(game.encoder)
        game.optimizer.eval()
        assert not game.optimizer.base.param_groups[0]["train_mode"]
        game.optimizer.train()
        assert game.optimizer.base.param_groups[0]["train_mode"]
        torch.testing.assert_close(values(game.encoder), trained)

    def test_nothing_else_is_found(self):
        assert not hasattr(Game().optimizer, "train")
        assert not hasattr(Game().optimizer, "_private")


class TestWarnings:
    def test_no_gradient(self):
        game = Game()
        give_gradients(game.encoder, 0)

        def train():
            for _ in range(250):
                game.optimizer.step()

        with pytest.warns(UserWarning, match="no gradient in its first 100 steps") as warned:
            train()
        assert len(warned) == 1

    @staticmethod
    def train(rates):
        game = Game()
        scheduler = lr_scheduler.OneCycleLR(game.optimizer, rates, total_steps=10)
        for seed in range(3):
            game.step(seed)
            scheduler.step()

    def test_one_rate_for_both(self):
        with pytest.warns(UserWarning, match=r"up to 0\.5, instead of 0\.00") as warned:
            self.train(0.5)
        assert len(warned) == 1

    @pytest.mark.filterwarnings("error")
    def test_a_rate_for_each(self):
        self.train([0.5, 1e-3])


SCHEDULERS = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=10),
    "one_cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=10
    ),
}


class TestHosts:
    """What trainers do with an optimizer."""

    @bases
    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_scheduler(self, scheduler, base):
        game = Game(base)
        plain = copy.deepcopy(game.encoder)
        optimizer = make_base(base, plain.parameters())
        ours, theirs = SCHEDULERS[scheduler](game.optimizer), SCHEDULERS[scheduler](optimizer)
        ratio = game.optimizer.param_groups[1]["lr"] / game.optimizer.param_groups[0]["lr"]
        rates = []
        for seed in range(5):
            game.step(seed)
            give_gradients(plain, seed)
            optimizer.step()
            ours.step()
            theirs.step()
            rates.append([group["lr"] for group in game.optimizer.param_groups])
        assert same(values(game.encoder), values(plain))
        assert len(set(map(tuple, rates))) == 5
        assert [mine for _, mine in rates] == pytest.approx([ratio * rate for rate, _ in rates])

    def test_scheduler_made_on_the_base_before(self):
        encoder, viewmaker = nn.Linear(2, 2), Viewmaker(1, width=8, depth=1)
        base = SGD(encoder.parameters(), lr=0.1)
        scheduler = lr_scheduler.StepLR(base, step_size=1, gamma=0.1)
        optimizer = JointOptimizer(base, viewmaker.parameters(), lr=1e-3)
        give_gradients(encoder, 0)
        before = encoder.weight.detach().clone()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it must see the step, or it warns of a wrong order
            optimizer.step()
            scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 1e-3])
        torch.testing.assert_close(encoder.weight.detach(), before - 0.1 * encoder.weight.grad)
        before = encoder.weight.detach().clone()
        optimizer.step()
        torch.testing.assert_close(encoder.weight.detach(), before - 0.01 * encoder.weight.grad)

    def test_grad_scaler_and_clipping(self):
        game, plain = Game(), Game()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # a power of two: exact
        scaler.scale(torch.zeros(1))

        def clipped(game: Game) -> None:
            params = [p for group in game.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(params, 1.0)

        for seed in range(3):
            for each in (game, plain):
                give_gradients(each.encoder, seed)
                give_gradients(each.viewmaker, seed)
            for p in (*game.encoder.parameters(), *game.viewmaker.parameters()):
                p.grad *= scaler.get_scale()
            scaler.unscale_(game.optimizer)
            clipped(game)
            scaler.step(game.optimizer)
            scaler.update()
            clipped(plain)
            plain.optimizer.step()
        assert same(game.values(), plain.values())

    @pytest.mark.parametrize("player", ["encoder", "viewmaker"])
    def test_grad_scaler_skips_overflow(self, player):
        game = Game()
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.zeros(1))
        give_gradients(game.encoder, 0)
        give_gradients(game.viewmaker, 0)
        next(getattr(game, player).parameters()).grad[0] = float("inf")
        before, scale = game.values(), scaler.get_scale()
        scaler.step(game.optimizer)
        scaler.update()
        assert same(game.values(), before)
        assert scaler.get_scale() == scale / 2
        assert game.optimizer.skipped_steps == 0  # the scaler's affair

    def test_step_hooks(self):
        game, calls = Game(), []
        game.optimizer.register_step_pre_hook(lambda *args: calls.append("pre"))
        game.optimizer.register_step_post_hook(lambda *args: calls.append("post"))
        game.step(0)
        assert calls == ["pre", "post"]


class TestAddParamGroup:
    @staticmethod
    def extended() -> tuple[Game, nn.Module, nn.Module]:
        game = Game()
        probe, second = nn.Linear(3, 2), nn.Linear(3, 2)
        game.optimizer.add_param_group({"params": probe.parameters(), "lr": 0.5})
        game.optimizer.add_param_group({"params": second.parameters(), "lr": 2e-3, "viewmaker": True})
        return game, probe, second

    def test_each_to_its_rule(self):
        game, probe, second = self.extended()
        modules = [(probe, SGD, {**BASES["sgd"][1], "lr": 0.5}), (second, AdamW, {"lr": 2e-3, "weight_decay": 0.0})]
        expected = []
        for module, cls, options in modules:
            expected.append((module, plain := copy.deepcopy(module), cls(plain.parameters(), **options)))
        for seed in range(3):
            for module, plain, optimizer in expected:
                give_gradients(module, seed)
                give_gradients(plain, seed)
                optimizer.step()
            game.step(seed)
        for module, plain, _ in expected:
            torch.testing.assert_close(values(module), values(plain), rtol=0, atol=1e-6)

    def test_state_dict(self):
        (game, *ours), (fresh, *theirs) = self.extended(), self.extended()
        for module in ours:
            give_gradients(module, 7)
        game.step(0)
        sources = game.encoder, game.viewmaker, *ours, game.optimizer
        targets = fresh.encoder, fresh.viewmaker, *theirs, fresh.optimizer
        for source, target in zip(sources, targets, strict=True):
            target.load_state_dict(through_file(source.state_dict()))
        for each, modules in ((game, ours), (fresh, theirs)):
            for module in modules:
                give_gradients(module, 8)
            each.step(1)
        assert same(game.values(), fresh.values())
        assert all(same(values(a), values(b)) for a, b in zip(ours, theirs, strict=True))

    @pytest.mark.parametrize("viewmaker", [False, True])
    def test_twice_the_same(self, viewmaker):
        game = Game()
        other = game.encoder if viewmaker else game.viewmaker
        with pytest.raises(ValueError, match="more than one parameter group"):
            game.optimizer.add_param_group({"params": list(other.parameters()), "viewmaker": viewmaker})
        # and nothing of it stays behind, or both rules would step the same weights
        assert len(game.optimizer.base.param_groups) + len(game.optimizer.adversary.param_groups) == 2


class TestOf:
    @staticmethod
    def groups(game: Game, **options) -> list[dict]:
        return [
            {"params": game.viewmaker.parameters(), "viewmaker": True, **options},
            {"params": game.encoder.parameters()},
        ]

    @bases
    def test_is_the_instance_form(self, base):
        game, other = Game(base, lr=2e-3, weight_decay=0.1), Game(base)
        cls, options = BASES[base]
        other.optimizer = JointOptimizer.of(cls)(self.groups(other, lr=2e-3, weight_decay=0.1), **options)
        assert isinstance(other.optimizer, JointOptimizer)
        for seed in range(3):
            game.step(seed)
            other.step(seed)
        assert same(game.values(), other.values())

    def test_viewmakers_rate_is_not_the_hosts(self):
        optimizer = JointOptimizer.of(SGD)(self.groups(Game()), lr=30.0)
        assert [group["lr"] for group in optimizer.param_groups] == [30.0, 1e-3]

    @copies
    def test_copies(self, duplicate):
        game = Game()
        game.optimizer = JointOptimizer.of(SGD)(self.groups(game), lr=0.1)
        copied = duplicate(game)
        for each in (game, copied):
            each.step(0)
        assert same(game.values(), copied.values())

    @pytest.mark.parametrize("flag", [{}, {"viewmaker": False}])
    def test_no_viewmaker(self, flag):
        with pytest.raises(ValueError, match=r"`params`.*'viewmaker': True"):
            JointOptimizer.of(SGD)([{"params": nn.Linear(2, 2).parameters(), **flag}], lr=0.1)

    def test_bad_setting_in_a_group(self):
        with pytest.raises(ValueError, match=r"`lr`.*-0\.1"):
            JointOptimizer.of(SGD)(self.groups(Game(), lr=-0.1), lr=0.1)


def test_named_parameters():
    encoder, viewmaker = nn.Linear(2, 2), Viewmaker(1, width=8, depth=1)
    optimizer = JointOptimizer(SGD(encoder.named_parameters(), lr=0.1), viewmaker.named_parameters())
    names = [group["param_names"] for group in optimizer.state_dict()["param_groups"]]
    assert names == [list(dict(module.named_parameters())) for module in (encoder, viewmaker)]


class TestOtherOptimizers:
    """Of the viewmaker: any of torch's, whether it can be told to leave a step out or not."""

    @pytest.mark.parametrize(
        ("cls", "options", "way"),
        [
            (SGD, {"momentum": 0.9}, {}),
            (AdamW, {}, {}),
            (AdamW, {"amsgrad": True}, {"foreach": True}),
            (AdamW, {}, {"fused": True}),
        ],
        ids=["sgd", "plain adamw", "amsgrad", "fused adamw"],
    )
    @pytest.mark.parametrize("good", [0, 2])
    def test_its_path_and_its_left_out_steps(self, cls, options, way, good):
        game, plain = Game(), Game()
        adversary = cls(game.viewmaker.parameters(), lr=0.01, **options, **way)
        game.optimizer = JointOptimizer(make_base("sgd", game.encoder.parameters()), adversary)
        optimizer = cls(plain.viewmaker.parameters(), lr=0.01, **options)
        for seed in range(4):
            if seed == good:
                before = values(game.viewmaker), moments(game)
                game.step(10, broken=float("nan"))
                assert same(values(game.viewmaker), before[0])
                assert same(moments(game), before[1] or [torch.zeros_like(state) for state in moments(game)])
            game.step(seed)
            give_gradients(plain.viewmaker, seed)
            optimizer.step()
        torch.testing.assert_close(values(game.viewmaker), values(plain.viewmaker), rtol=0, atol=1e-6)
        with pytest.warns(RuntimeWarning, match="1 steps"):
            assert game.optimizer.skipped_steps == 1

    def test_options_of_adamw(self):
        game, plain = Game(amsgrad=True, maximize=True, lr=0.01), Game()
        optimizer = AdamW(plain.viewmaker.parameters(), lr=0.01, weight_decay=0, amsgrad=True, maximize=True)
        for seed in range(3):
            game.step(seed)
            give_gradients(plain.viewmaker, seed)
            optimizer.step()
        torch.testing.assert_close(values(game.viewmaker), values(plain.viewmaker), rtol=0, atol=1e-6)

    def test_options_beside_an_optimizer(self):
        with pytest.raises(TypeError, match="eps"):
            JointOptimizer(SGD(nn.Linear(2, 2).parameters()), AdamW(Viewmaker(1).parameters()), eps=1e-6)

    def test_unknown_option(self):
        with pytest.raises(TypeError, match="momentum"):
            Game(momentum=0.9)


def test_loads_states_of_version_0_1():
    """Of an Adam of our own, whose groups knew nothing of how to compute."""
    game, other = Game(), Game()
    for seed in range(2):
        game.step(seed)
    state = game.optimizer.state_dict()
    old = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "viewmaker": True, "capturable": True}
    state["param_groups"][1] = {**old, "params": state["param_groups"][1]["params"]}
    for name in ("encoder", "viewmaker"):
        getattr(other, name).load_state_dict(getattr(game, name).state_dict())
    other.optimizer.load_state_dict(through_file(state))
    for each in (game, other):
        each.step(2)
    assert same(game.values(), other.values())


def test_skipped_steps_are_added_up(monkeypatch):
    monkeypatch.setattr("viewaug.joint_optimizer._KEPT", 2)
    game = Game()
    for seed in range(7):
        game.step(seed, broken=float("inf") if seed % 2 else None)
    with pytest.warns(RuntimeWarning, match="3 steps"):
        assert game.optimizer.skipped_steps == 3


class TestBadArguments:
    @pytest.mark.parametrize("base", [None, SGD, nn.Linear(2, 2)])
    def test_base(self, base):
        with pytest.raises(TypeError, match="`base`"):
            JointOptimizer(base, Viewmaker(1).parameters())

    def test_params_in_both(self):
        encoder = nn.Linear(2, 2)
        with pytest.raises(ValueError, match="more than one parameter group"):
            JointOptimizer(SGD(encoder.parameters(), lr=0.1), encoder.parameters())

    def test_no_params(self):
        """Of a viewmaker of random views there are none: the base goes on alone."""
        encoder, plain = Game().encoder, Game().encoder
        base = SGD(plain.parameters(), lr=0.1)
        joint = JointOptimizer(SGD(encoder.parameters(), lr=0.1), Viewmaker(1, generator="random").parameters())
        for module, optimizer in ((encoder, joint), (plain, base)):
            give_gradients(module, 0)
            optimizer.step()
        assert same(values(encoder), values(plain))
        assert joint.skipped_steps == 0
        joint.load_state_dict(joint.state_dict())
        pickle.loads(pickle.dumps(joint)).step()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("lr", -1e-3),
            ("lr", float("nan")),
            ("lr", float("inf")),
            ("betas", (1.0, 0.999)),
            ("betas", (0.9, -0.1)),
            ("eps", -1e-8),
            ("weight_decay", -0.1),
        ],
    )
    def test_settings(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}`"):
            JointOptimizer(SGD(nn.Linear(2, 2).parameters(), lr=0.1), Viewmaker(1).parameters(), **{name: value})
