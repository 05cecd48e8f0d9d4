"""The demo, its data, and the command line, run as a user would, on a small scale."""

import json
import os
import subprocess
import sys

import pytest
import torch
from viewaug.examples import former
from viewaug.examples.photo_digits import photo_digits

import viewaug
from viewaug.cli import main
from viewaug.comparison import Comparison

QUICK = ["demo", "--images", "300", "--test-images", "60", "--steps", "3", "--seeds", "1", "--trials", "1"]


def test_photo_digits():
    data = photo_digits(100, train=True)
    assert data.images.min() >= 0
    assert data.images.max() <= 1
    assert set(data.photo.tolist()) == set(data.digit.tolist()) == set(range(10))
    again = photo_digits(20, train=True)
    assert all(torch.equal(a[:20], b) for a, b in zip(data, again, strict=True))  # image i depends on i alone
    assert not torch.equal(photo_digits(20, train=True, seed=1).images, again.images)
    # Where the digit is opaque the image is white.
    assert (data.images[(data.mask == 1).expand_as(data.images)] == 1).all()


def test_training_and_test_images_share_no_pixels():
    """Every place of a photograph that a test crop may show is in no training crop."""
    from viewaug.examples import photo_digits as module

    seen = {train: torch.zeros(4 * module.CELL, 6 * module.CELL, dtype=torch.bool) for train in (True, False)}
    for train, places in seen.items():
        for row, column in module.cells(4 * module.CELL, 6 * module.CELL, train=train):
            places[row : row + module.CELL, column : column + module.CELL] = True
    assert not (seen[True] & seen[False]).any()
    assert (seen[True] | seen[False]).all()
    assert seen[False].float().mean() == 0.25


def test_demo_runs_and_goes_on(tmp_path, capsys):
    out = ["--out", str(tmp_path), "--methods", "untrained", "supervised", "learned", "--probes"]
    assert main(QUICK + out) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [cell["method"] for cell in results["cells"]] == ["untrained", "supervised", "learned"]
    assert results["best"] == "learned"  # the others are for reference
    assert all(0 <= cell["test"][task] <= 100 for cell in results["cells"] for task in former.TASKS)
    again = Comparison.read(tmp_path / "results.json")
    assert again.table in printed
    assert again.verdict == results["verdict"]
    x = torch.rand(2, 3, 32, 32)
    view = viewaug.load(tmp_path / "viewmaker.safetensors")(x)
    assert (viewaug.distortion(x, view) > 0).all()

    # Started again, it runs what is missing alone.
    cells = sorted((tmp_path / "cells").glob("*.json"))
    cells[0].unlink()
    times = [file.stat().st_mtime_ns for file in cells[1:]]
    assert main(QUICK + out) == 0
    assert cells[0].exists()
    assert [file.stat().st_mtime_ns for file in cells[1:]] == times

    # What diagnose takes.
    probe = next((tmp_path / "probes").glob("*supervised*.pt2"))
    command = ["diagnose", "--checkpoint", tmp_path / "viewmaker.safetensors", "--data", tmp_path / "data.npz"]
    command += ["--probe", f"supervised={probe}", "--out", tmp_path / "diagnosis", "--views", 2, "--count", 20]
    assert main(list(map(str, command))) == 0


def test_table():
    cells = [
        {"method": "spectral+colour+warp", "seed": 0, "photo": 10.0, "digit": 20.0, "loss": 1.0},
        {"method": "spectral+colour+warp", "seed": 1, "photo": 20.0, "digit": 20.0, "loss": 1.5},
        {"method": "untrained", "seed": 0, "photo": 7.0, "digit": 8.0},
    ]
    title, _, *lines = former.table(cells).splitlines()
    assert title.endswith("2 seeds")
    assert len({len(line) for line in lines}) == 1
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "--" not in line] == [
        ["views", "photo", "digit", "mean", "loss", "spread"],
        ["spectral+colour+warp", "15.0 ± 7.1", "20.0 ± 0.0", "17.5 ± 3.5", "1.25 ± 0.35", ""],
        ["untrained", "7.0", "8.0", "7.5", "", ""],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--seeds", "0"], "--seeds"),
        (["demo", "--images", "-5"], "--images"),
        (["demo", "--methods"], "--methods"),
        (["dance"], "dance"),
    ],
)
def test_bad_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_version_and_help(capsys):
    for arguments, expected in (
        (["--version"], viewaug.__version__),
        (["--help"], "demo"),
        (["demo", "--help"], "--images"),
        (["compare", "--help"], "--seeds"),
    ):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 0
        assert expected in capsys.readouterr().out


def test_benchmarks_print_their_tables(capsys):
    from viewaug.examples.benchmarks import step, views

    views.main(["--rounds", "1", "--sizes", "16", "--scale", "0.05"])
    step.main(["--rounds", "1", "--batch", "4", "4"])
    printed = capsys.readouterr().out
    for row in ("kornia SimCLR", "fast", "reference", "original protocol", "torchvision stem"):
        assert row in printed


def test_launches(capsys):
    """Few enough that views do not cost more than the encoder where launches are the price of small networks."""
    from viewaug.examples.benchmarks import launches

    launches.main(["--perturbation", "additive", "mix", "--names"])
    printed = capsys.readouterr().out
    assert "mix, reference" in printed
    assert "_fused_adamw_" in printed
    counts = {name: counted.total() for name, counted in launches.count(viewaug.Viewmaker()).items()}
    assert 30 < counts["forward"] <= 90
    assert 20 < counts["backward"] <= 60
    assert 2 < counts["optimizer"] <= 6


def test_memory(capsys):
    from viewaug.examples.benchmarks import memory

    def two_at_once() -> None:
        x = torch.zeros(1000, device="meta")
        y = (x + 1)[:10]  # a view, which holds all of it
        del x
        (y + 1).add_(1)

    assert memory.peak(two_at_once) == 8000
    memory.main(["--batch", "2"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("x")]
    assert len(rows) == 2
    assert 1 < float(rows[0][1]) < 1.15  # of a step, with the CIFAR stem
    assert 0.5 < float(rows[0][3]) < 2  # of one convolution


def test_strength(tmp_path, capsys):
    from viewaug.examples.benchmarks import strength

    small = {"steps": 2, "batch": 4, "images": 16, "epochs": 1, "long": 101}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    options += ["--seeds", "1", "--encoders", "untrained", "--workers", "1", "--out", str(tmp_path)]
    strength.main(options)
    printed = capsys.readouterr().out
    assert "| random | 0.0 % |" in printed
    assert "| limit | 100.0 % |" in printed
    cell = json.loads((tmp_path / "cells" / "untrained-0.json").read_text())["cell"]
    rows = cell["views"]
    assert rows["limit"]["loss"] > max(row["loss"] for name, row in rows.items() if name != "limit")
    assert all(sum(row["scales"].values()) == pytest.approx(1) for row in rows.values())
    assert rows["random"]["diversity"] == pytest.approx(1.43, abs=0.05)
    assert (tmp_path / "strength.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        strength.main([*options, "--batch", "5"])
    assert "other settings" in capsys.readouterr().err


def test_lightly_example(capsys):
    from viewaug.examples import lightly_simclr

    torch.manual_seed(0)
    assert 0 < lightly_simclr.main(["--fake", "--epochs", "1", "--batch", "8"]) < 10
    assert "epoch 0: loss" in capsys.readouterr().out


LAUNCHERS = {"own": [], "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2"]}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_lightly_example_in_two_processes(tmp_path, launcher):
    options = ["--fake", "--epochs", "1", "--batch", "4", "--devices", "2", "--accelerator", "cpu", "--out"]
    subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], "-m", "viewaug.examples.lightly_simclr_ddp", *options, tmp_path],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
    )
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert any(name.startswith("viewmaker.generator") for name in state)
