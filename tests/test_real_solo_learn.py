"""The solo-learn adapter on the real solo-learn: SOLO_LEARN=<a checkout of its main branch> pytest -m solo.

Skipped without a checkout, since none of its releases holds what its users run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

CHECKOUT = Path(os.environ.get("SOLO_LEARN", "/nonexistent"))
pytestmark = [
    pytest.mark.solo,
    pytest.mark.skipif(not (CHECKOUT / "main_pretrain.py").is_file(), reason="SOLO_LEARN names no checkout"),
    pytest.mark.filterwarnings("ignore"),
]
METHODS = ["all4one", "barlow_twins", "byol", "deepclusterv2", "dino", "mae", "mocov2plus", "mocov3", "nnbyol", "nnclr"]
METHODS += ["nnsiam", "ressl", "simclr", "simsiam", "supcon", "swav", "vibcreg", "vicreg", "wmse"]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(CHECKOUT),
    "PYTHONWARNINGS": "ignore",
    "WANDB_MODE": "disabled",
}


class Tiny(nn.Sequential):
    """A backbone of a few parameters."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = self.inplanes = 16
        self.fc = nn.Identity()


@pytest.fixture(scope="module")
def solo():
    double = take_solo()  # that of test_solo_learn.py
    sys.path.insert(0, str(CHECKOUT))
    from solo.methods import METHODS
    from solo.methods.base import BaseMethod

    BaseMethod._BACKBONES["tiny"] = Tiny
    yield METHODS
    sys.path.remove(str(CHECKOUT))
    take_solo()
    sys.modules.update(double)


def take_solo() -> dict:
    """Take a package `solo` out of what is imported."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "solo"}


@pytest.fixture
def images(tmp_path):
    """A folder of five classes."""
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        folder = tmp_path / "images" / str(i % 5)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (36, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def configuration(method: str, images: Path, **more):
    """The method's own configuration for CIFAR, made small."""
    from omegaconf import OmegaConf
    from solo.args.pretrain import parse_cfg

    name = {"barlow_twins": "barlow"}.get(method, method)
    folder = CHECKOUT / "scripts" / "pretrain" / "cifar"
    cfg = OmegaConf.load(folder / f"{name}.yaml")
    for entry in cfg.pop("defaults"):
        if "augmentations" in entry:
            cfg.augmentations = OmegaConf.load(folder / "augmentations" / entry["augmentations"])
    OmegaConf.set_struct(cfg, False)
    small = {
        "data": {"dataset": "custom", "train_path": str(images), "val_path": None, "num_workers": 0},
        "optimizer": {"batch_size": 10},
        "checkpoint": {"enabled": False},
        "auto_resume": {"enabled": False},
        "max_epochs": 2,
        "devices": "1",
        "accelerator": "cpu",
        "strategy": "auto",
        "sync_batchnorm": False,
        "precision": 32,
        "seed": 0,
        "wandb": {"enabled": False},
    }
    if method != "mae":
        small["backbone"] = {"name": "tiny"}
    cfg = OmegaConf.merge(cfg, small, more)
    kwargs = cfg.method_kwargs
    for key in ("queue_size", "num_prototypes", "proj_hidden_dim", "proj_output_dim", "pred_hidden_dim"):
        if key in kwargs and isinstance(kwargs[key], int):
            kwargs[key] = 40 if key == "queue_size" else 16
    if method == "wmse":
        kwargs.whitening_size = 5
        kwargs.proj_output_dim = 4
    if method == "ressl":
        kwargs.queue_size = 40
    if method == "swav":
        kwargs.queue_size = 40
    if method == "deepclusterv2":
        kwargs.num_prototypes = [5, 5, 5]
    return parse_cfg(cfg)


def train(model, cfg):
    from lightning.pytorch import Trainer
    from solo.data.pretrain_dataloader import (
        FullTransformPipeline,
        NCropAugmentation,
        build_transform_pipeline,
        prepare_dataloader,
        prepare_datasets,
    )

    pipelines = [NCropAugmentation(build_transform_pipeline("custom", a), a.num_crops) for a in cfg.augmentations]
    dataset = prepare_datasets("custom", FullTransformPipeline(pipelines), train_data_path=cfg.data.train_path)
    loader = prepare_dataloader(dataset, batch_size=cfg.optimizer.batch_size, num_workers=0)
    trainer = Trainer(
        max_epochs=cfg.max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    return trainer


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_both_players(solo, images, method, tmp_path, monkeypatch):
    from viewaug.adapters.solo_learn import wrap

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    cfg = configuration(method, images, viewmaker={"lr": 1e-3})
    model = wrap(solo[method])(cfg)
    before, backbone = weights(model.viewmaker), weights(model.backbone)
    trainer = train(model, cfg)
    moved = (weights(model.viewmaker) - before).abs().mean()
    assert moved > 1e-4
    assert weights(model).isfinite().all()
    assert not torch.equal(weights(model.backbone), backbone)
    assert trainer.global_step == 8


def pretrain(folder: Path, images: Path, *more: str) -> str:
    """Run the untouched main script with the two-line swap and a small network."""
    config = folder / "cfg" / "simclr.yaml"
    if not config.exists():
        config.parent.mkdir()
        config.write_text(
            (CHECKOUT / "scripts/pretrain/cifar/simclr.yaml")
            .read_text()
            .replace("  - augmentations: symmetric.yaml", "  - augmentations: symmetric.yaml\n  - viewmaker: default")
            .replace("hydra:\n", "hydra:\n  searchpath: [pkg://viewaug.adapters.solo_learn.conf]\n", 1)
        )
        source = CHECKOUT / "scripts/pretrain/cifar"
        for part in ("augmentations", "wandb"):
            (config.parent / part).symlink_to(source / part)
    command = [
        sys.executable,
        CHECKOUT / "main_pretrain.py",
        "--config-path",
        config.parent,
        "--config-name",
        config.name,
    ]
    options = [
        "data.dataset=custom",
        f"data.train_path={images}",
        "data.val_path=null",
        "data.num_workers=0",
        "optimizer.batch_size=10",
        "accelerator=cpu",
        "devices='1'",
        "strategy=auto",
        "sync_batchnorm=False",
        "precision=32",
        "max_epochs=1",
        "method_kwargs.proj_hidden_dim=16",
        "method_kwargs.proj_output_dim=16",
        f"checkpoint.dir={folder / 'trained'}",
        "wandb.enabled=False",
    ]
    return run([*command, *options, *more], folder)


def run(command: list, folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "trained").rglob("*.ckpt"), key=lambda file: file.stat().st_mtime)


def viewmaker_of(file: Path) -> torch.Tensor:
    state = torch.load(file, weights_only=False)["state_dict"]
    return torch.cat([value.flatten() for name, value in sorted(state.items()) if name.startswith("viewmaker.")])


def test_main_script_with_two_lines_resumes_and_serves_a_linear_probe(images, tmp_path):
    assert "left out" not in pretrain(tmp_path, images)
    (first,) = checkpoints(tmp_path)
    assert "-viewmaker" in first.name
    start = viewmaker_of(first)
    pretrain(tmp_path, images, "max_epochs=2", f"+resume_from_checkpoint='{first}'", "auto_resume.enabled=False")
    last = checkpoints(tmp_path)[-1]
    assert torch.load(last, weights_only=False)["epoch"] == 1
    assert not torch.equal(viewmaker_of(last), start)
    linear(tmp_path, images, last)


def linear(folder: Path, images: Path, checkpoint: Path) -> None:
    """Run solo-learn's own linear probe on a checkpoint."""
    config = folder / "cfg" / "linear.yaml"
    source = (CHECKOUT / "scripts/linear/imagenet-100/simclr.yaml").read_text()
    config.write_text(source)
    command = [
        sys.executable,
        CHECKOUT / "main_linear.py",
        "--config-path",
        config.parent,
        "--config-name",
        config.name,
    ]
    options = [
        f"pretrained_feature_extractor='{checkpoint}'",
        "data.dataset=custom",
        f"data.train_path={images}",
        f"data.val_path={images}",
        "data.num_workers=0",
        "data.format=image_folder",
        "optimizer.batch_size=10",
        "accelerator=cpu",
        "devices='1'",
        "strategy=auto",
        "sync_batchnorm=False",
        "precision=32",
        "max_epochs=1",
        "wandb.enabled=False",
        f"checkpoint.dir={folder / 'probe'}",
        "auto_resume.enabled=False",
    ]
    run(command + options, folder)


def test_main_script_in_two_processes(images, tmp_path):
    pretrain(tmp_path, images, "devices='2'", "strategy=ddp")
    assert viewmaker_of(checkpoints(tmp_path)[-1]).isfinite().all()


@pytest.mark.parametrize("name", ["simclr", "byol", "vicreg", "mocov2plus", "barlow_twins"])
def test_ready_configurations(images, tmp_path, name):
    folder = Path(__file__).parents[1] / "examples" / "solo_learn"
    command = [sys.executable, CHECKOUT / "main_pretrain.py", "--config-path", folder, "--config-name", f"{name}.yaml"]
    options = [
        "images=custom",
        f"data.train_path={images}",
        "data.num_workers=0",
        "augmentations.0.crop_size=32",
        "optimizer.batch_size=8",
        "max_epochs=1",
        "accelerator=cpu",
        "devices='1'",
        "strategy=auto",
        "sync_batchnorm=false",
        "precision=32",
    ]
    run(command + options, tmp_path)
    assert any("-custom-viewmaker" in file.name for file in (tmp_path / "trained_models").rglob("*.ckpt"))
