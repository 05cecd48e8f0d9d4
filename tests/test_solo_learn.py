"""The solo-learn adapter on a double of solo-learn's contract; test_real_solo_learn.py runs the real one."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import viewaug

DOUBLES = Path(__file__).parent / "doubles"
sys.path.insert(0, str(DOUBLES))

import main_pretrain as script  # noqa: E402
from lightning.pytorch import Trainer  # noqa: E402
from solo.methods import METHODS  # noqa: E402
from viewaug.adapters.solo_learn import Settings, Swap, wrap  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"lr": 1e-3}
MEAN, STD = (torch.tensor(values).view(-1, 1, 1) for values in (script.MEAN, script.STD))


def configuration(method: str = "simclr", **more):
    base = {"name": "run", "method": method, "seed": 0, "optimizer": {"name": "sgd", "lr": 0.05}, "viewmaker": SMALL}
    return OmegaConf.create({**base, **more})


def train(cfg, crops=((12, 2),), epochs: int = 1, method=None, **options):
    torch.manual_seed(0)
    model = wrap(method or METHODS[cfg.method])(cfg)
    before = weights(model.viewmaker)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, script.loader(crops))
    return model, trainer, weights(model.viewmaker) - before


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([torch.zeros(0), *(parameter.detach().flatten() for parameter in module.parameters())])


def realised(model, crop: int, batch: int = 0, side: int = 12) -> torch.Tensor:
    """The distortion of a crop of a batch, in pixels."""
    images = script.Images(None).images[4 * batch : 4 * batch + 4, :, :side, :side]
    return viewaug.distortion(images, model.seen[batch][crop] * STD + MEAN)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_both_players(method, optimizer):
    cfg = configuration(method, optimizer={"name": optimizer, "lr": 0.05})
    _, trainer, moved = train(cfg)
    assert 3e-4 < moved.abs().mean() < 4.1e-3  # four steps of Adam at no more than 1e-3
    assert trainer.global_step == 4
    assert [group["lr"] for group in trainer.optimizers[0].param_groups][-1] == pytest.approx(1e-3)
    assert type(trainer.optimizers[0]).__name__.startswith("Joint")


def test_random_views_need_no_training():
    model, trainer, _ = train(configuration(viewmaker={"generator": "random", "units": "std", "budget": 0.2}))
    assert trainer.global_step == 4
    images = script.Images(None).images[:4, :, :12, :12]
    torch.testing.assert_close(realised(model, 0), 0.2 * images.flatten(1).std(1, correction=0), rtol=1e-3, atol=1e-5)


def test_a_choice_without_a_budget():
    spec = {"one_of": ["mix", {"name": "crop", "area": 0.3}]}
    model, trainer, moved = train(configuration(viewmaker={"perturbation": spec, "budget": None}))
    assert model.viewmaker.budget is None
    assert trainer.global_step == 4
    assert moved.abs().mean() > 1e-4
    assert not torch.equal(*model.seen[0])


def test_views_are_within_the_budget_in_pixels():
    model, _, _ = train(configuration(viewmaker={"budget": 0.03}))
    for crop in range(2):
        torch.testing.assert_close(realised(model, crop), torch.full((4,), 0.03), rtol=1e-4, atol=1e-6)
    assert not torch.equal(*model.seen[0])


@pytest.mark.parametrize(
    ("crops", "perturbed"), [("all", {0, 1, 2, 3}), ("large", {0, 1}), ([1], {1}), ([0, 3], {0, 3})]
)
def test_crops_of_different_sizes(crops, perturbed):
    model, _, moved = train(configuration(viewmaker={"crops": crops}), crops=((12, 2), (8, 2)))
    for crop in range(4):
        expected = torch.full((4,), 0.05 if crop in perturbed else 0.0)
        torch.testing.assert_close(realised(model, crop, side=12 if crop < 2 else 8), expected, rtol=1e-4, atol=1e-6)
    assert moved.abs().mean() > 3e-4


def test_momentum_branch_gets_the_same_views():
    model, _, _ = train(configuration("byol"))
    assert all(
        torch.equal(a, b)
        for x, y in zip(model.seen, model.targets_seen, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_controller():
    node = {"difficulty": 0.5, "unrelated": 100.0}  # the loss is always too small
    model, _, _ = train(configuration(viewmaker=node))
    assert model.viewmaker.budget == pytest.approx(0.05 * math.exp(4 * 0.02), rel=0.02)
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    fresh, _, _ = train(configuration(viewmaker=node), epochs=0)
    fresh.on_load_checkpoint(checkpoint)
    assert fresh.viewmaker.budget == model.viewmaker.budget
    with pytest.raises(ValueError, match=r"viewmaker\.unrelated"):
        train(configuration(viewmaker={"difficulty": 0.5}))


def test_mae_rebuilds_the_clean_image():
    model, _, moved = train(configuration("mae"))
    target = model.targets_seen[0][0] * STD + MEAN
    torch.testing.assert_close(target, script.Images(None).images[:4])
    assert moved.abs().mean() > 3e-4
    single, _, _ = train(configuration("mae", num_large_crops=1), crops=((12, 1),))
    assert len(single.targets_seen[0]) == 1


def test_roles_of_the_crops():
    model, _, _ = train(configuration("ressl", viewmaker={"crops": [0]}))
    assert realised(model, 0).min() > 0.04
    assert realised(model, 1).max() < 1e-6


@pytest.mark.parametrize("option", ["static_lr", "exclude_bias_n_norm_wd"])
def test_groups_and_schedules(option):
    model, trainer, _ = train(configuration(**{option: True}))
    groups = trainer.optimizers[0].param_groups
    mine = {id(parameter) for parameter in model.viewmaker.parameters()}
    for group in groups:
        inside = {id(parameter) in mine for parameter in group["params"]}
        assert inside == {bool(group.get("viewmaker"))}
        if inside == {True}:
            assert group["lr"] == pytest.approx(1e-3)  # its own, warmed up, not the encoder's
    if option == "static_lr":
        assert groups[1]["lr"] == 0.05


def test_without_labels_the_loss_is_not_read():
    class NoLabels(METHODS["simclr"]):
        def training_step(self, batch, batch_idx):
            loss = super().training_step([batch[0], batch[1], torch.full_like(batch[2], -1)], batch_idx)
            return loss + (loss * torch.nan).detach()

    model, trainer, moved = train(configuration(), method=NoLabels)
    assert moved.abs().mean() > 3e-4
    assert trainer.optimizers[0].skipped_steps == 0
    assert weights(model.viewmaker).isfinite().all()


def test_accumulation_and_precision():
    _, trainer, moved = train(configuration(), accumulate_grad_batches=2, precision="bf16-mixed", gradient_clip_val=1.0)
    assert trainer.global_step == 2
    assert moved.abs().mean() > 1e-4


@pytest.mark.parametrize("after", [0, 1])
def test_freezing(after):
    cfg = configuration(viewmaker={"freeze_after_epoch": after, "weight_decay": 0.1})
    _, trainer, moved = train(cfg, epochs=1)
    assert (moved.abs().max() > 0) == (after == 1)
    assert type(trainer.optimizers[0]).__name__ == ("JointSGD" if after else "SGD")
    again, _, further = train(configuration(viewmaker={"freeze_after_epoch": after, "weight_decay": 0.1}), epochs=3)
    assert torch.equal(moved, further)
    torch.testing.assert_close(realised(again, 0, batch=0), torch.full((4,), 0.05), rtol=1e-4, atol=1e-6)


def test_checkpoint_of_a_viewmaker(tmp_path):
    saved = viewaug.Viewmaker(width=8, depth=1, perturbation="spectral")
    viewaug.save(saved, tmp_path / "v.safetensors")
    node = {"checkpoint": str(tmp_path / "v.safetensors"), "freeze_after_epoch": 0, "budget": 0.02}
    model, _, moved = train(configuration(viewmaker=node))
    assert not moved.any()
    assert torch.equal(weights(model.viewmaker), weights(saved))
    torch.testing.assert_close(realised(model, 0), torch.full((4,), 0.02), rtol=1e-4, atol=1e-6)


def test_names_of_runs_and_parameters():
    cfg = configuration()
    model = wrap(METHODS["simclr"])(cfg)
    assert cfg.name == "run-viewmaker"
    wrap(METHODS["simclr"])(cfg)
    assert cfg.name == "run-viewmaker"
    names = [name for name in model.state_dict() if name.startswith("viewmaker.")]
    assert names
    assert not any("encoder" in name or "backbone" in name for name in names)


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        ({"buget": 0.05}, ValueError, "`viewmaker`.*budget.*but got 'buget'"),
        ({"budget": -1.0}, ValueError, "`budget`"),
        ({"generator": "unet"}, ValueError, "`generator`"),
        ({"channels": 1}, ValueError, "`viewmaker.channels`"),
        ({"checkpoint": "absent.safetensors"}, FileNotFoundError, "absent.safetensors"),
        ({"crops": [7]}, ValueError, "`viewmaker.crops`"),
        ({"crops": "small"}, ValueError, "`viewmaker.crops`"),
        ({"mean": [0.5] * 3, "std": [9.0] * 3}, ValueError, "value range"),
    ],
)
def test_bad_settings_stop_before_training(node, error, message):
    with pytest.raises(error, match=message):
        train(configuration(viewmaker=node))


def test_checkpoint_of_another_kind(tmp_path):
    viewaug.save(viewaug.Viewmaker(1, dims=1), tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"viewmaker\.checkpoint"):
        train(configuration(viewmaker={"checkpoint": str(tmp_path / "v.safetensors")}))


def test_another_loader_needs_mean_and_std():
    model = wrap(METHODS["simclr"])(configuration())
    crops = torch.rand(4, 3, 12, 12)
    data = torch.utils.data.DataLoader([(0, [crops[0], crops[1]], 1)] * 4, batch_size=4)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(ValueError, match=r"`viewmaker\.mean`"):
        trainer.fit(model, data)
    model = wrap(METHODS["simclr"])(configuration(viewmaker={"mean": 0.0, "std": 1.0}))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, data)


def test_an_old_solo_learn_is_refused_where_the_method_is_built():
    class Old(nn.Module):
        def __init__(self, cfg):
            super().__init__()

    METHODS["old"] = Old
    try:
        swap = Swap()
        swap.on_job_start(OmegaConf.create({"method": "old"}))
        with pytest.raises(TypeError, match=r"solo-learn 1\.0\.6"):
            METHODS["old"](configuration())
        swap.on_job_end(None)
        assert METHODS["old"] is Old
    finally:
        del METHODS["old"]


def test_settings_are_the_keys_of_the_group():
    folder = Path(viewaug.__file__).parents[1] / "adapters" / "solo_learn" / "conf" / "viewmaker"
    default = OmegaConf.load(folder / "default.yaml").viewmaker
    settings = Settings.of(OmegaConf.create({"viewmaker": default}))
    assert {**vars(settings), "value_range": tuple(settings.value_range)} == vars(Settings())


def test_import_needs_neither_solo_nor_hydra():
    code = "import sys, viewaug.adapters.solo_learn; assert not {'solo', 'hydra', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


SEARCH_PATH = "hydra.searchpath=[pkg://viewaug.adapters.solo_learn.conf]"


def hydra(folder: Path, *options: str, group: str | None = "default", search_path: bool = True) -> str:
    """Run the untouched main script, with the swap on the command line or not at all.

    Without the search path it is the plugin that finds the group, as where the wheel is installed.
    """
    (folder / "cfg").mkdir(exist_ok=True)
    base = configuration(max_epochs=1, devices=1, strategy="auto", crops=[[12, 2]], out=str(folder))
    del base["viewmaker"]
    quiet = "hydra:\n  output_subdir: null\n  run: {dir: .}\n  sweep: {dir: ., subdir: .}\n"
    (folder / "cfg" / "run.yaml").write_text(OmegaConf.to_yaml(base) + quiet)
    swap = [] if group is None else [*([SEARCH_PATH] if search_path else []), f"+viewmaker={group}"]
    command = [DOUBLES / "main_pretrain.py", "--config-path", folder / "cfg", "--config-name", "run"]
    flags = [option for option in options if option.startswith("--")]
    places = [DOUBLES, *([] if search_path else [Path(__file__).parents[1]])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    words = [*command, *flags, *swap, *(option for option in options if option not in flags)]
    result = forked.run(words, cwd=folder, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def has_viewmaker(file: Path) -> bool:
    return any(name.startswith("viewmaker.") for name in torch.load(file))


def test_the_main_script_untouched(tmp_path):
    hydra(tmp_path, group=None)
    hydra(tmp_path, "viewmaker.budget=0.02")
    assert not has_viewmaker(tmp_path / "run-rank0.pt")
    assert has_viewmaker(tmp_path / "run-viewmaker-rank0.pt")
    first = torch.load(tmp_path / "run-viewmaker-rank0.pt")
    args = json.loads((tmp_path / "run-viewmaker" / "args.json").read_text())
    assert args["viewmaker"]["budget"] == 0.02
    hydra(tmp_path, "viewmaker.budget=0.02", "max_epochs=2")  # resumes
    second = torch.load(tmp_path / "run-viewmaker-rank0.pt")
    assert not torch.equal(first["viewmaker.generator.stem.weight"], second["viewmaker.generator.stem.weight"])


def test_one_word(tmp_path):
    hydra(tmp_path, "viewmaker.budget=0.02", search_path=False)
    assert has_viewmaker(tmp_path / "run-viewmaker-rank0.pt")
    with pytest.raises(AssertionError, match=r"viewmaker/defualt|Could not find"):  # and not taken for a value
        hydra(tmp_path, group="defualt", search_path=False)


def test_logs(tmp_path):
    _, trainer, _ = train(configuration(viewmaker={"budget": 0.03}))
    logged = trainer.logged_metrics
    assert logged["viewmaker/distortion"] == pytest.approx(0.03, rel=1e-3)
    assert logged["viewmaker/budget"] == pytest.approx(0.03)
    assert logged["viewmaker/grad_norm"] > 0


@pytest.mark.long
def test_two_lines_of_configuration_and_the_other_groups(tmp_path):
    viewaug.save(viewaug.Viewmaker(width=8, depth=1), tmp_path / "v.safetensors")
    hydra(tmp_path, f"viewmaker.checkpoint={tmp_path / 'v.safetensors'}", "name=frozen", group="frozen")
    state = torch.load(tmp_path / "frozen-viewmaker-rank0.pt")
    kept = viewaug.load(tmp_path / "v.safetensors").state_dict()
    assert all(torch.equal(state[f"viewmaker.{name}"], value) for name, value in kept.items())
    hydra(tmp_path, "name=paper", group="paper")
    assert "viewmaker.generator.blocks.2.conv1.conv.weight" in torch.load(tmp_path / "paper-viewmaker-rank0.pt")

    lines = "defaults: [_self_, {viewmaker: default}]\nhydra: {searchpath: [pkg://viewaug.adapters.solo_learn.conf]}\n"
    config = (tmp_path / "cfg" / "run.yaml").read_text().split("hydra:")[0].replace("name: run", "name: lines")
    (tmp_path / "cfg" / "lines.yaml").write_text(lines + config)
    command = [DOUBLES / "main_pretrain.py", "--config-path", tmp_path / "cfg", "--config-name", "lines"]
    forked.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(DOUBLES)}).check_returncode()
    assert has_viewmaker(tmp_path / "lines-viewmaker-rank0.pt")


def test_errors_stop_the_script(tmp_path):
    with pytest.raises(AssertionError, match="'buget'"):
        hydra(tmp_path, "+viewmaker.buget=0.1")
    assert not list(tmp_path.glob("*.pt"))


def test_multirun_wraps_each_job_alone(tmp_path):
    hydra(tmp_path, "--multirun", "name=a,b", "viewmaker.budget=0.02")
    assert has_viewmaker(tmp_path / "a-viewmaker-rank0.pt")
    assert has_viewmaker(tmp_path / "b-viewmaker-rank0.pt")
    swap, method = Swap(), METHODS["simclr"]
    for _ in range(2):
        swap.on_job_start(configuration())
        assert METHODS["simclr"] is not method
        swap.on_job_end(configuration())
        assert METHODS["simclr"] is method


def test_two_processes_agree(tmp_path):
    hydra(tmp_path, "devices=2", "strategy=ddp", "viewmaker.freeze_after_epoch=1", "max_epochs=2")
    ranks = [torch.load(tmp_path / f"run-viewmaker-rank{rank}.pt") for rank in range(2)]
    for name, value in ranks[0].items():
        if not name.startswith("backbone.1."):  # running statistics are each rank's own
            assert torch.equal(value, ranks[1][name]), name


CONFIGS = Path(__file__).parents[1] / "examples" / "solo_learn"


@pytest.mark.parametrize("images", ["cifar10", "custom"])
@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_ready_configurations_compose(file, images):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.2"):
        cfg = compose(file.name, overrides=[f"images={images}", "viewmaker.budget=0.1"], return_hydra_config=True)
    assert cfg.name == f"{file.stem}-{images}"
    assert Settings.of(cfg).budget == 0.1
    assert cfg.hydra.callbacks.viewaug._target_ == "viewaug.adapters.solo_learn.Swap"
    assert all(cfg.augmentations[0][change].prob == 0 for change in ("color_jitter", "grayscale", "gaussian_blur"))
