"""lightly's own examples, untouched, on learned views: LIGHTLY=CHECKOUT pytest -m lightly tests/test_real_lightly.py.

Nothing is downloaded: images are noise. Each example takes two steps, in which the viewmaker has to move.
"""

import functools
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision
from torch.optim import optimizer as optimizers
from torchvision.datasets import FakeData

import viewaug
from viewaug._batches import find_views, get, put
from viewaug.joint_optimizer import adamw, step_if_finite

CHECKOUT = Path(os.environ.get("LIGHTLY", "absent")).absolute()
DIFF = Path(__file__).parents[1] / "examples" / "lightly_simclr.diff"
# A view that is hard to rebuild is none that is hard to recognise: they take no views of their input, but masks.
MASKED = ("aim", "capi", "ibot", "ijepa", "mae", "pixio", "simmim")
pytestmark = [
    pytest.mark.lightly,
    pytest.mark.skipif(not (CHECKOUT / "examples").is_dir(), reason="LIGHTLY names no checkout"),
    pytest.mark.filterwarnings("ignore"),
]
STEPS = 2


def examples(kind: str) -> list[Path]:
    files = sorted((CHECKOUT / "examples" / kind).glob("*.py")) or [Path("none.py")]
    return [file for file in files if file.stem not in MASKED]


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """Raised where an example has taken its steps."""


@pytest.fixture
def small(monkeypatch):
    """Little data, in this process, and few steps."""

    class Fake(FakeData):
        def __init__(self, *args, transform=None, target_transform=None, **kwargs):
            super().__init__(16, (3, 64, 64), transform=transform)

    for name in ("CIFAR10", "VOCDetection"):
        monkeypatch.setattr(torchvision.datasets, name, Fake)

    class Small(torch.utils.data.DataLoader):
        def __init__(self, dataset, **options):
            super().__init__(dataset, **{**options, "batch_size": 4, "num_workers": 0})

    monkeypatch.setattr(torch.utils.data, "DataLoader", Small)
    torch.manual_seed(0)


@pytest.fixture
def viewmaker():
    torch.manual_seed(1)
    return viewaug.Viewmaker(3, budget=0.1, units="std", value_range=None, width=8, depth=1)  # of normalised images


def run(source: str, name: str) -> None:
    module = types.ModuleType("example")
    sys.modules["example"] = module
    try:
        exec(compile(source, name, "exec"), vars(module))
    except Enough:
        pass
    finally:
        del sys.modules["example"]


def moved(viewmaker, before) -> float:
    return max((p - q).abs().max().item() for p, q in zip(viewmaker.parameters(), before, strict=True))


@pytest.mark.parametrize("file", examples("pytorch"), ids=lambda file: file.stem)
def test_plain_loops(file, small, viewmaker, monkeypatch):
    """Views of what the loader gives, and a step of the viewmaker after each of the example's optimizer."""
    augmentation, own = viewaug.AdversarialAugmentation(viewmaker), adamw(viewmaker.parameters(), lr=1e-3)
    before, steps = [p.clone() for p in viewmaker.parameters()], []

    class Loader(torch.utils.data.DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                places = find_views(batch, None, lambda x: torch.is_tensor(x) and x.ndim == 4 and x.shape[1] == 3)
                views = augmentation.perturb_each([get(batch, place) for place in places])
                yield put(batch, dict(zip(places, views, strict=True)))

    def stepped(optimizer, *args):
        if optimizer is own:
            return
        step_if_finite(own)
        own.zero_grad()
        steps.append(1)
        if len(steps) == STEPS:
            raise Enough

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    hook = optimizers.register_optimizer_step_post_hook(stepped)
    try:
        run(file.read_text().replace('else "mps"', 'else "cpu"'), str(file))
    finally:
        hook.remove()
    assert moved(viewmaker, before) > 1e-4


@pytest.mark.parametrize("file", examples("pytorch_lightning"), ids=lambda file: file.stem)
def test_lightning_modules(file, small, viewmaker, monkeypatch):
    import pytorch_lightning as pl
    from viewaug.adapters.lightning import ViewmakerCallback

    before = [p.clone() for p in viewmaker.parameters()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [ViewmakerCallback(viewmaker)]
    trainer = functools.partial(pl.Trainer, callbacks=callbacks, max_steps=STEPS, **quiet)
    monkeypatch.setattr(pl, "Trainer", lambda **kw: trainer(max_epochs=1, devices=1, accelerator="cpu"))
    run(file.read_text(), str(file))
    assert moved(viewmaker, before) > 1e-4


def test_the_diff_applies_and_trains(small, tmp_path, monkeypatch):
    target = tmp_path / "examples" / "pytorch" / "simclr.py"
    target.parent.mkdir(parents=True)
    target.write_text((CHECKOUT / "examples" / "pytorch" / "simclr.py").read_text())
    subprocess.run(["git", "apply", "--unidiff-zero", str(DIFF)], cwd=tmp_path, check=True)
    steps, module = [], types.ModuleType("example")

    def stepped(optimizer, *args):
        steps.append(1)
        if len(steps) > 2 * STEPS:
            raise Enough

    hook = optimizers.register_optimizer_step_post_hook(stepped)
    try:
        exec(compile(target.read_text(), str(target), "exec"), vars(module))
    except Enough:
        pass
    finally:
        hook.remove()
    fresh = viewaug.Viewmaker(3, budget=0.05)
    assert module.viewmaker.config == fresh.config
    state = module.optimizer.adversary.state
    assert len(state) == len(list(fresh.parameters()))
