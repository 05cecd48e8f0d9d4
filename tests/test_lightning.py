"""The Lightning callback, under both of Lightning's names, with modules that know nothing of it."""

import collections
import copy
import importlib
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightly.loss import NTXentLoss
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from torch import nn
from torch.utils.data import DataLoader, Dataset
from viewaug.adapters.lightning import ViewmakerCallback

import viewaug
from viewaug._noise import generator_at
from viewaug.joint_optimizer import adamw

HOSTS = ("lightning.pytorch", "pytorch_lightning")
for name in HOSTS:
    logging.getLogger(name).setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")


class Pairs(Dataset):
    """Images whose two views are the same, and a label."""

    def __init__(self, n: int = 32) -> None:
        self.images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return [self.images[i], self.images[i]], i % 3


def encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def module(host: str = HOSTS[0], optimizer=lambda p: torch.optim.SGD(p, 0.1), schedule=None, **methods):
    """A SimCLR module of a host, with an optimizer over ``self.parameters()``."""

    class SimCLR(importlib.import_module(host).LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = encoder(), NTXentLoss(0.2)
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch)
            (x0, x1), _ = batch
            loss = self.criterion(self.net(x0), self.net(x1))
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            base = optimizer(self.parameters())
            return base if schedule is None else ([base], [{"scheduler": schedule(base), "interval": "step"}])

    torch.manual_seed(0)
    return type("Host", (SimCLR,), methods)()


def callback(**options) -> ViewmakerCallback:
    torch.manual_seed(1)
    return ViewmakerCallback(viewaug.Viewmaker(width=8, depth=1), **options)


def fit(
    model,
    own,
    host: str = HOSTS[0],
    epochs: int = 2,
    data=None,
    ckpt_path=None,
    batch: int = 8,
    callbacks_after=(),
    **options,
):
    options = {"logger": False, "enable_checkpointing": False, **options}
    trainer = importlib.import_module(host).Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[own, *callbacks_after],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, data or DataLoader(Pairs(), batch_size=batch), ckpt_path=ckpt_path)
    return trainer


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
    "lars": lambda p: LARS(p, lr=0.1, weight_decay=1e-4),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3),
}
SCHEDULES = {
    "none": None,
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8),
    "lightly": lambda optimizer: CosineWarmupScheduler(optimizer, 2, 8),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_viewmaker_moves_by_adam_under_any_optimizer(host, optimizer, schedule):
    model, own = module(host, OPTIMIZERS[optimizer], SCHEDULES[schedule]), callback()
    before, net = weights(own.viewmaker), weights(model.net)
    trainer = fit(model, own, host)
    moved = (weights(own.viewmaker) - before).abs()
    assert 5e-4 < moved.mean() < 8e-3  # 8 steps of at most about 1e-3
    assert not torch.equal(weights(model.net), net)
    assert trainer.global_step == 8
    assert "training_step" not in vars(model)
    assert model.viewmaker is own.viewmaker
    for group in trainer.optimizers[0].param_groups:
        assert not {id(p) for p in group["params"]} & {id(p) for p in own.viewmaker.parameters()}


def test_schedule_of_the_viewmaker():
    asked = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 1e-3 if step < 2 else 0.0

    model, own = module(), callback(lr=schedule)
    short = weights(own.viewmaker)
    fit(model, own, epochs=1)  # 4 steps
    assert asked == [0, 0, 1, 2, 3]  # once to begin with
    moved = (weights(own.viewmaker) - short).abs()
    assert 3e-4 < moved.mean() < 2.1e-3  # 2 steps of at most about 1e-3
    assert own.state_dict()["optimizer"]["param_groups"][0]["lr"] == 0


def test_both_players_step_as_in_a_loop_by_hand():
    model, own = module(), callback(mean=0.5, std=0.25)
    net, viewmaker = copy.deepcopy(model.net), copy.deepcopy(own.viewmaker)
    fit(model, own, epochs=1)

    sgd = torch.optim.SGD(net.parameters(), 0.1)
    adam = adamw(viewmaker.parameters(), lr=1e-3)
    seen = iter(model.seen)
    for (x, _), _ in DataLoader(Pairs(), batch_size=8):
        given = [0.25 * view.detach() + 0.5 for view in next(seen)[0]]
        noise = noise_of(viewmaker, x, given)
        views = (viewaug.reverse_gradient(viewmaker(torch.cat([x, x]), noise)) - 0.5) / 0.25
        loss = NTXentLoss(0.2)(*(net(view) for view in views.chunk(2)))
        sgd.zero_grad()
        adam.zero_grad()
        loss.backward()
        sgd.step()
        adam.step()
    torch.testing.assert_close(weights(net), weights(model.net))
    torch.testing.assert_close(weights(viewmaker), weights(own.viewmaker), rtol=0, atol=1e-5)


def noise_of(viewmaker, x, given):
    """Find the batch's noise by what it is made of: seed, epoch, batch and rank."""
    for batch in range(4):
        generator = generator_at(0, 0, batch, 0, torch.device("cpu"))
        noise = viewmaker.draw_noise(torch.cat([x, x]), generator)
        if torch.allclose(viewmaker(torch.cat([x, x]), noise), torch.cat(given), atol=1e-5):
            return noise
    raise AssertionError("the views are not those of any batch's noise")


@pytest.mark.parametrize("host", HOSTS)
def test_resumes_bit_for_bit(host, tmp_path):
    whole = module(host, OPTIMIZERS["sgd"]), callback()
    fit(*whole, host, epochs=3)
    half = module(host, OPTIMIZERS["sgd"]), callback()
    fit(*half, host, epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    rest = module(host, OPTIMIZERS["sgd"]), callback()
    rest[1].viewmaker.requires_grad_(True)
    fit(*rest, host, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert not torch.equal(weights(half[0]), weights(rest[0]))
    assert torch.equal(weights(whole[0]), weights(rest[0]))
    states = [own.state_dict()["optimizer"]["state"] for own in (whole[1], rest[1])]
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i])


def test_accumulation_and_clipping():
    model, own = module(), callback()
    before = weights(own.viewmaker)
    trainer = fit(model, own, epochs=1, accumulate_grad_batches=2, gradient_clip_val=1e-9)
    assert trainer.global_step == 2
    moved = (weights(own.viewmaker) - before).abs()
    assert 5e-4 < moved.mean() < 2.1e-3  # two steps, untouched by the encoder's clipping
    assert own.state_dict()["optimizer"]["state"][0]["step"] == 2
    assert (weights(model.net) - weights(module().net)).abs().max() < 1e-6


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision(precision):
    model, own = module(), callback()
    before = weights(own.viewmaker)
    fit(model, own, epochs=1, precision=precision)
    assert (weights(own.viewmaker) - before).abs().mean() > 5e-4
    assert weights(own.viewmaker).isfinite().all()


def test_manual_optimization():
    def training_step(self, batch, batch_idx):
        (x0, x1), _ = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.criterion(self.net(x0), self.net(x1)))
        optimizer.step()

    model, own = module(training_step=training_step, automatic_optimization=False), callback()
    before = weights(own.viewmaker)
    fit(model, own, epochs=1)
    assert (weights(own.viewmaker) - before).abs().mean() > 5e-4
    assert own.state_dict()["optimizer"]["state"][0]["step"] == 4


def test_random_views_need_no_training():
    torch.manual_seed(1)
    viewmaker = viewaug.Viewmaker(generator="random")
    controller = viewaug.BudgetController(viewmaker, unrelated=2.7, target=0.5)
    model, own = module(), ViewmakerCallback(viewmaker, budget=controller)
    net = weights(model.net)
    trainer = fit(model, own, epochs=1)
    assert not torch.equal(weights(model.net), net)
    assert viewmaker.budget != 0.05
    assert trainer.callback_metrics["viewmaker/distortion"] > 0.04
    assert "viewmaker/grad_norm" not in trainer.callback_metrics
    own.load_state_dict(own.state_dict())


def test_logs():
    model, own = module(), callback(budget=lambda step: 0.01 + 0.01 * step)
    metrics = fit(model, own, epochs=1).callback_metrics
    assert metrics["viewmaker/budget"] == pytest.approx(0.04)
    assert metrics["viewmaker/distortion"] == pytest.approx(0.04, rel=1e-4)
    assert metrics["viewmaker/grad_norm"] > 0


def test_noise_differs_by_batch_epoch_and_seed():
    def changes(seed):
        model = module()
        fit(model, callback(seed=seed, freeze_after_epoch=0), data=DataLoader([Pairs()[0]] * 2, batch_size=1))
        return [view - Pairs().images[0] for batch in model.seen for view in batch[0]]

    views = changes(0) + changes(1)
    assert len(views) == 16  # of 2 seeds, 2 epochs, 2 batches and 2 views
    assert all(not torch.equal(views[i], views[j]) for i in range(16) for j in range(i))
    assert all(torch.equal(a, b) for a, b in zip(changes(1), views[8:], strict=True))


@pytest.mark.parametrize("after", [0, 1])
def test_freezing(after):
    model, own = module(optimizer=OPTIMIZERS["sgd"]), callback(freeze_after_epoch=after, weight_decay=0.1)
    kept = []
    model.on_train_epoch_start = lambda: kept.append(weights(own.viewmaker))
    fit(model, own, epochs=3)
    kept.append(weights(own.viewmaker))
    assert torch.equal(kept[0], kept[1]) == (after == 0)
    assert torch.equal(kept[1], kept[3])
    assert not torch.equal(model.seen[-1][0][0], Pairs().images[-8:])  # and views go on
    assert all(parameter.requires_grad == (after > 0) for parameter in own.viewmaker.parameters())


def test_frozen_viewmaker_of_a_checkpoint(tmp_path):
    viewaug.save(viewaug.Viewmaker(width=8, depth=1), tmp_path / "v.safetensors")
    own = ViewmakerCallback(viewaug.load(tmp_path / "v.safetensors"), freeze_after_epoch=0)
    before = weights(own.viewmaker)
    fit(module(), own, epochs=1)
    assert torch.equal(weights(own.viewmaker), before)


def test_draws_views(tmp_path):
    fit(module(), callback(draw_every_n_epochs=2), epochs=5, default_root_dir=tmp_path)
    assert sorted(file.name for file in (tmp_path / "viewmaker").iterdir()) == ["epoch-1.png", "epoch-3.png"]


def test_draws_views_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(module(), callback(draw_every_n_epochs=1), epochs=1, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent))
    events.Reload()
    assert "viewmaker/views" in events.Tags()["images"]


Named = collections.namedtuple("Named", "views label")
X, Y = Pairs(8).images, torch.arange(8)
SMALL = torch.nn.functional.avg_pool2d(X, 2)
LAYOUTS = {
    "pair": ([[X, X], Y], lambda b: b[0]),
    "names": ([[X, X], Y, ["a"] * 8], lambda b: b[0]),
    "tuple": (((X, X), Y), lambda b: b[0]),
    "tensor": (X, lambda b: [b]),
    "image and label": ((X, Y), lambda b: [b[0]]),
    "multi-crop": ([[X, X, SMALL, SMALL], Y], lambda b: b[0]),
    "views and grids": ([[X, SMALL, X[:, :2], X[:, :2].long()], Y], lambda b: b[0][:2]),  # lightly's VICRegL
    "views, masks": (([X, X], [X[:, 0].long(), X[:, 0].long()]), lambda b: b[0]),  # lightly's DetCon
    "dictionaries of views": ({"views": [{"image": X, "label": Y}, {"image": SMALL}]}, lambda b: nested(b["views"])),
    "named views": ({"views": {"a": {"image": X}, "b": {"image": X}}}, lambda b: nested(b["views"].values())),
    "dictionary": ({"image": X, "label": Y}, lambda b: [b["image"]]),
    "dictionary of views": ({"image": [X, SMALL], "label": Y}, lambda b: b["image"]),
    "named tuple": (Named([X, X], Y), lambda b: b.views),
}


# Those that could be understood in several ways, and what says which.
SPOKEN = {
    "views alone": ("*", [X, X], lambda b: b),
    "two views and a label": (["0", "1"], (X, X + 0, Y), lambda b: b[:2]),
    "image and target": (0, (X, X + 0), lambda b: b[:1]),
    "other names": ("student.*.x", {"student": [{"x": X}, {"x": X}], "y": Y}, lambda b: [v["x"] for v in b["student"]]),
    "one of two": ("views.0", {"views": [X, X + 0]}, lambda b: b["views"][:1]),
    "a key of lists": ("pictures", {"pictures": [X, SMALL], "label": Y}, lambda b: b["pictures"]),
}


def nested(views):
    return [view["image"] for view in views]


def loader(batch):
    return DataLoader([0], collate_fn=lambda _: batch)


def training_step(self, batch, batch_idx):
    self.seen.append(batch)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_layouts(layout):
    batch, views = LAYOUTS[layout]
    model = module(training_step=training_step)
    fit(model, callback(), epochs=1, data=loader(batch))
    (seen,) = model.seen
    assert type(seen) is type(batch)
    for x, view in zip(views(batch), views(seen), strict=True):
        torch.testing.assert_close(viewaug.distortion(x, view), torch.full((8,), 0.05))
    labels = seen.get("label", Y) if isinstance(seen, dict) else seen[1] if torch.is_tensor(seen[1]) else Y
    assert layout == "tensor" or torch.equal(labels, Y)


@pytest.mark.parametrize("layout", SPOKEN)
def test_batches_that_need_a_word(layout):
    """What is not named stays as it is: a target, a mask, a second view."""
    spec, batch, views = SPOKEN[layout]
    model = module(training_step=training_step)
    fit(model, callback(views=spec), epochs=1, data=loader(batch))
    (seen,) = model.seen
    for x, view in zip(views(batch), views(seen), strict=True):
        torch.testing.assert_close(viewaug.distortion(x, view), torch.full((8,), 0.05))
    changed = sum(not torch.equal(a, b) for a, b in zip(tensors(batch), tensors(seen), strict=True))
    assert changed == len(views(batch))
    if isinstance(batch, (list, tuple)):
        with pytest.raises(ValueError, match="`views` to say which elements"):
            fit(module(training_step=training_step), callback(), epochs=1, data=loader(batch))


def tensors(batch):
    return torch.utils._pytree.tree_leaves(batch)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([[(255 * X).byte()] * 2, Y], TypeError, "floating point.*torch.uint8"),
        ([[X[:, :1]] * 2, Y], TypeError, r"\(B, 3, H, W\)"),
        ([["a"], Y], TypeError, "`batch`"),
        ({"picture": X}, ValueError, "'views' or 'image'.*views='picture'"),
        ((X, X[:, :1], X), ValueError, "`views` to say which elements.*2 could be"),
        ((Y, X), TypeError, "`batch`"),
        ([[5 * X - 2] * 2, Y], ValueError, "value range"),
        ([], TypeError, "`batch`"),
    ],
)
def test_other_batches_are_refused(batch, error, message):
    with pytest.raises(error, match=message):
        fit(module(training_step=training_step), callback(), epochs=1, data=loader(batch))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("image", ValueError, "'image' of 'image' is none of views, label"),
        ("views.2", ValueError, "'2' of 'views.2' is none of 0, 1"),
        ("label", TypeError, "`views` at 'label'.*torch.int64"),
        ([], ValueError, "`views` of the batch"),
    ],
)
def test_bad_paths(spec, error, message):
    batch = {"views": [X, X], "label": Y}
    with pytest.raises(error, match=message):
        fit(module(training_step=training_step), callback(views=spec), epochs=1, data=loader(batch))


@pytest.mark.parametrize("each", [False, True])
def test_what_is_spared_is_in_the_batch(each):
    """One mask for all views, or one for each, and lengths; what is logged is of the rest."""
    where = torch.ones(8, 1, 16, 16)
    where[..., :10] = 0
    views = [{"image": X, "mask": where}, {"image": X, "mask": where.flip(-1)}] if each else [{"image": X}] * 2
    batch = {"views": views, "mask": where, "ends": torch.arange(12, 20).clamp(max=16)}
    model = module(training_step=training_step)
    path = "views.*.mask" if each else "mask"
    trainer = fit(model, callback(views="views.*.image", where=path, lengths="ends"), epochs=1, data=loader(batch))
    one, two = nested(model.seen[0]["views"])
    assert torch.equal(one[..., :10], X[..., :10])
    assert torch.equal(two[..., 6:] if each else two[..., :10], X[..., 6:] if each else X[..., :10])
    assert torch.equal(one[0, ..., 12:], X[0, ..., 12:])
    assert not torch.equal(one, X)
    torch.testing.assert_close(
        viewaug.distortion(X, one, where=where, lengths=batch["ends"]), torch.full((8,), 0.05), rtol=1e-3, atol=0
    )
    assert trainer.callback_metrics["viewmaker/distortion"] == pytest.approx(0.05, rel=1e-3)


def test_scorers_steer_the_viewmaker_and_are_no_part_of_the_module():
    scorer = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    own, plain = callback(spare=scorer, target=scorer, weight=2.0), callback()
    models = [module(), module()]
    for model, mine in zip(models, (own, plain), strict=True):
        fit(model, mine, epochs=1)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert not torch.equal(weights(own.viewmaker), weights(plain.viewmaker))
    assert all(p.grad is None for p in scorer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "masks"}, "`where` to be a path.*'masks'"),
        ({"lengths": "views.*.image"}, "`lengths` to be a tensor of"),
        ({"where": ["mask", "views.0.image", "views.1.image"]}, "`where` at.*each of 2, but there are 3"),
    ],
)
def test_bad_places_of_masks(options, message):
    batch = {"views": [{"image": X}, {"image": X + 0}], "mask": torch.ones(8, 1, 16, 16)}
    with pytest.raises(ValueError, match=message):
        fit(module(training_step=training_step), callback(**options), epochs=1, data=loader(batch))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_module_as_it_was(error):
    def broken(self, batch, batch_idx):
        raise error("stop")

    model = module(training_step=broken)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        fit(model, callback())
    assert "training_step" not in vars(model)


def test_the_budget_of_a_schedule_is_saved():
    model, own = module(), callback(budget=lambda step: 0.01 * (step + 1))
    fit(model, own, epochs=1)
    assert own.viewmaker.budget == pytest.approx(0.04)


def test_a_step_without_a_loss_is_passed_over():
    def sometimes(self, batch, batch_idx):
        (x0, x1), _ = batch
        return self.criterion(self.net(x0), self.net(x1)) if batch_idx % 2 else None

    own = callback()
    controller = viewaug.BudgetController(own.viewmaker, unrelated=math.log(15))
    own = ViewmakerCallback(own.viewmaker, budget=controller)
    before = own.viewmaker.budget
    fit(module(training_step=sometimes), own, epochs=1)
    assert own.viewmaker.budget != before


def test_averages_of_weights():
    """Made after the viewmaker is a part of the module, or refused."""
    from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

    for average in (EMAWeightAveraging(), StochasticWeightAveraging(0.1, swa_epoch_start=1)):
        with pytest.raises(ValueError, match=f"before {type(average).__name__}"):
            fit(module(), average, callbacks_after=[callback()])
        own = callback()
        model = module()
        fit(model, own, epochs=3, callbacks_after=[average])
        assert model.viewmaker is own.viewmaker


def test_lbfgs_and_a_viewmaker_of_ones_own_are_refused():
    with pytest.raises(RuntimeError, match="LBFGS"):
        fit(module(optimizer=torch.optim.LBFGS), callback())
    model = module()
    model.viewmaker = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="`viewmaker`"):
        fit(model, callback())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"budget": 0.1}, TypeError),
        ({"freeze_after_epoch": -1}, ValueError),
        ({"draw_every_n_epochs": 0.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"lr": -1.0}, ValueError),
        ({"std": 0.0}, ValueError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error, match=f"`{next(iter(options))}`"):
        callback(**options)
    with pytest.raises(TypeError, match="`viewmaker`"):
        ViewmakerCallback(nn.Linear(1, 1))


def test_fits_twice_and_leaves_validation_alone():
    def validation_step(self, batch, batch_idx):
        assert torch.equal(batch[0][0], batch[0][1])

    model, own = module(validation_step=validation_step), callback()
    data = DataLoader(Pairs(), batch_size=8)
    trainer = fit(model, own, epochs=1)
    trainer.validate(model, data, verbose=False)
    before = weights(own.viewmaker)
    fit(model, own, epochs=1)
    assert 5e-4 < (weights(own.viewmaker) - before).abs().mean() < 5e-3


@pytest.mark.parametrize("host", [HOSTS[0], pytest.param(HOSTS[1], marks=pytest.mark.long)])
def test_imports_no_lightning_but_the_one_in_use(host):
    code = f"""
import sys, viewaug, viewaug.adapters
assert not {{"lightning", "pytorch_lightning"}} & set(sys.modules)
import {host}
from viewaug.adapters.lightning import ViewmakerCallback
assert issubclass(ViewmakerCallback, {host}.Callback)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_lightning import *
out, = sys.argv[1:]

class SimCLR(importlib.import_module({host!r}).LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.criterion = encoder(), NTXentLoss(0.2, gather_distributed=True)
        self.first = None

    def training_step(self, batch, batch_idx):
        (x0, x1), _ = batch
        if self.first is None:
            self.first = (x0.detach() - Pairs().images[0]).flatten()
        return self.criterion(self.net(x0), self.net(x1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

torch.manual_seed(0)
model, own = SimCLR(), callback(freeze_after_epoch=1)
start = weights(own.viewmaker), weights(model.net)
data = DataLoader([Pairs()[0]] * 16, batch_size=4)
trainer = fit(model, own, {host!r}, data=data, devices=2, strategy="ddp")
torch.save((start, weights(own.viewmaker), weights(model.net), model.first), f"{{out}}/{{trainer.global_rank}}.pt")
"""


@pytest.mark.parametrize("host", [HOSTS[0], pytest.param(HOSTS[1], marks=pytest.mark.long)])
def test_two_processes_agree(host, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), host=host))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, tmp_path], check=True, env=environment, timeout=300, capture_output=True)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    (start, viewmaker, net, first), (_, other_viewmaker, other_net, other_first) = ranks
    assert torch.equal(viewmaker, other_viewmaker)
    assert torch.equal(net, other_net)
    assert (viewmaker - start[0]).abs().mean() > 5e-4
    assert not torch.equal(net, start[1])
    assert not torch.equal(first, other_first)  # other noise on each rank


def controlled(**options) -> ViewmakerCallback:
    own = callback()
    controller = viewaug.BudgetController(own.viewmaker, unrelated=2.7, target=0.5, gain=0.05, **options)
    return ViewmakerCallback(own.viewmaker, budget=controller)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_controller_steers_the_budget(host, accumulate):
    """By every batch's own loss, however many of them make a step."""
    model, own = module(host), controlled()
    losses, budgets = [], [own.viewmaker.budget]
    step, loss_of = own.controller.step, model.training_step
    own.controller.step = lambda loss: losses.append(loss.item()) or budgets.append(step(loss)) or budgets[-1]
    returned = []
    model.training_step = lambda *a: returned.append(loss_of(*a)) or returned[-1]
    fit(model, own, host, epochs=1, accumulate_grad_batches=accumulate)
    assert losses == pytest.approx([loss.item() for loss in returned])
    assert len(losses) == 4
    for before, after, loss in zip(budgets, budgets[1:], losses, strict=False):
        change = 0.05 * max(-1, min(1, 1 - loss / 2.7 / 0.5))
        assert after == pytest.approx(before * math.exp(change))


def test_controlled_budget_is_saved(tmp_path):
    model, own = module(), controlled()
    trainer = fit(model, own, epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fresh = controlled()
    fit(module(), fresh, epochs=1, ckpt_path=tmp_path / "a.ckpt")  # ends at once
    assert fresh.viewmaker.budget == own.viewmaker.budget != 0.05


def test_controller_of_another_viewmaker_is_refused():
    with pytest.raises(ValueError, match="`budget` to control"):
        ViewmakerCallback(viewaug.Viewmaker(), budget=controlled().controller)


@pytest.mark.parametrize("spec", ["mix", "crop", {"one_of": ["mask", "channels"]}])
def test_without_a_budget_it_logs_and_steers_the_strength(spec):
    viewmaker = viewaug.Viewmaker(perturbation=spec, budget=None, width=8, depth=1)
    before = weights(viewmaker)
    own = ViewmakerCallback(viewmaker, budget=viewaug.BudgetController(viewmaker, unrelated=math.log(15), target=0.5))
    trainer = fit(module(), own)
    assert not torch.equal(weights(viewmaker), before)
    assert 0.5 < viewmaker.strength < 1
    assert trainer.logged_metrics["viewmaker/strength"] == pytest.approx(viewmaker.strength, rel=0.05)
    assert "viewmaker/budget" not in trainer.logged_metrics
    with pytest.raises(ValueError, match="no `budget` schedule for a viewmaker without a budget"):
        ViewmakerCallback(viewmaker, budget=lambda step: 0.1)
