"""The demo, its data, and the command line, run as a user would, on a small scale."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from viewaug.examples import demo, former
from viewaug.examples.photo_digits import photo_digits
from viewaug.examples.two_overlays import two_overlays

import viewaug
from viewaug.cli import main
from viewaug.comparison import Comparison
from viewaug.comparison.verdict import with_interval

NAMES = list(demo.DATA_SETS)


@pytest.fixture
def small(monkeypatch):
    """Fewer images, and two steps of the cheapest views instead of as many as the committed runs have."""
    monkeypatch.setattr(demo, "TRAIN", 300)
    monkeypatch.setattr(demo, "TEST", 60)
    read = Comparison.read

    def short(file):
        known = read(file)
        return replace(known, plan=replace(known.plan, seconds=2 * min(known.plan.prices["residual"].values())))

    monkeypatch.setattr(demo.Comparison, "read", short)


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


def test_two_overlays():
    data = two_overlays(60, train=True)
    plain = photo_digits(60, train=True, corner=(1, 1), opacity=0.7)
    assert torch.equal(data["photo"], plain.photo)
    assert torch.equal(data["digit"], plain.digit)
    assert set(data["shape"].tolist()) == {0, 1, 2}
    changed = (data["x"] != plain.images).any(1)
    assert not changed[:, :17].any()  # the shape is where the digit is not
    assert not changed[:, :, :17].any()
    assert changed.flatten(1).any(1).all()
    again = two_overlays(20, train=True)
    assert all(torch.equal(again[name], data[name][:20]) for name in data)


def test_demo_runs_and_goes_on(small, tmp_path, capsys):
    out = ["demo", "--methods", "none", "region", "learned:blend+additive", "--workers", "1", "--out", str(tmp_path)]
    assert main(out) == 0
    printed = capsys.readouterr()
    for name in NAMES:  # a line for each finished cell, in a log
        assert f"{name}, learned=blend+additive" in printed.err
        known = Comparison.read(demo.RESULTS / name / "results.json")
        assert all(line in printed.out for line in known.verdict.splitlines())
        runs = known.runs("residual", "region")
        assert with_interval([statistics.mean(run["test"].values()) for run in runs]) in printed.out
    assert len(printed.err.splitlines()) < 30
    text = (tmp_path / "report.md").read_text()
    assert all(line in text for line in printed.out.splitlines() if line.startswith("|"))
    for picture in ("accuracy.png", "views.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")

    # Started again, it runs what is missing alone.
    cells = sorted((tmp_path / "cells").glob("*.json"))
    assert len(cells) == 9
    cells[0].unlink()
    times = [file.stat().st_mtime_ns for file in cells[1:]]
    assert main(out) == 0
    assert cells[0].exists()
    assert [file.stat().st_mtime_ns for file in cells[1:]] == times


def test_arrays_of_the_demo_for_compare_and_diagnose(small, tmp_path, capsys):
    assert main(["demo", "--data", "digits", "--arrays", "--out", str(tmp_path)]) == 0
    place = tmp_path / "digits"
    out = [
        "--data",
        str(place / "arrays"),
        "--out",
        str(tmp_path / "c"),
        "--steps",
        "3",
        "--seeds",
        "1",
        "--trials",
        "1",
    ]
    assert main(["compare", *out, "--methods", "untrained", "supervised", "learned", "--probes"]) == 0
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert results["best"] == "learned"  # the others are for reference
    probe = next((tmp_path / "c" / "probes").glob("*supervised*.pt2"))
    command = ["diagnose", "--checkpoint", tmp_path / "c" / "viewmaker.safetensors", "--data", place / "data.npz"]
    command += [
        "--probe",
        f"supervised={probe}",
        "--out",
        tmp_path / "diagnosis",
        "--views",
        2,
        "--count",
        20,
        "--trust",
    ]
    assert main(list(map(str, command))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_those_of_the_committed_results(name):
    """Of as many inputs and classes; and every method of the demo is in there, with five runs."""
    arrays = demo.DATA_SETS[name].arrays()
    known = Comparison.read(demo.RESULTS / name / "results.json")
    assert set(known.labels) == set(arrays) - {"x", "split", "value_range", "mask"}
    assert known.notes[0].startswith(f"{len(arrays['x'])} inputs")
    assert all(len(known.runs("residual", method)) == 5 for method in demo.METHODS)


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
        (["demo", "--methods"], "--methods"),
        (["demo", "--methods", "jigsaw"], "'jigsaw' is none of"),
        (["demo", "--data", "mnist"], "--data"),
        (["compare", "--data", "x", "--out", "y", "--seeds", "0"], "--seeds"),
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
        (["demo", "--help"], "--arrays"),
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


@pytest.mark.long
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


@pytest.mark.long
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


def test_scale():
    """Against what is known of ResNet-50, 4.1 billion multiplications an image, and the page."""
    from pathlib import Path

    from viewaug.examples.benchmarks import scale

    plain, fast = (scale.cost("resnet50", views) for views in ("none", "fast"))
    assert plain.flops == pytest.approx(2 * 3 * 2 * 4.1e9, rel=0.02)  # of two views, forward and twice backward
    assert 1 < fast.flops / plain.flops < 1.05
    assert 0 < fast.launches - plain.launches < 450
    assert plain.gradients == 2 * 23_508_032  # bytes
    assert plain.memory_of(512) < fast.memory_of(512) < 1.2 * plain.memory_of(512)
    page = (Path(scale.__file__).parents[2] / "docs" / "evidence" / "scale.md").read_text(encoding="utf-8")
    for name, found in (("none", plain), ("fast", fast)):
        assert f"| `{name}` | {4096 * found.flops / 1e12:.1f} | {found.flops / plain.flops:.3f} x |" in page

    with scale.Traffic() as traffic:
        x = torch.empty(1000, device="meta")
        (x + 1).view(10, 100).add_(1)
    assert traffic.bytes == 4000 * (2 + 2)
