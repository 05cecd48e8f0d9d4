"""The demo, its data, and the command line, run as a user would, on a small scale."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from viewaug.examples import demo
from viewaug.examples.photo_digits import photo_digits

import viewaug
from viewaug.cli import main

QUICK = ["demo", "--epochs", "1", "--seeds", "1", "--images", "128", "--workers", "1"]


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


def test_demo_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    out = ["--out", str(tmp_path)]
    assert main(QUICK + out) == 0
    printed = capsys.readouterr().out
    for method in demo.METHODS:
        assert method in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["epochs"] == 1
    assert torch.__version__.startswith(results["versions"]["torch"])
    assert {cell["method"] for cell in results["cells"]} == set(demo.METHODS)
    assert all(0 <= cell[task] <= 100 for cell in results["cells"] for task in demo.TASKS)
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    x = torch.rand(2, 3, 32, 32)
    assert "viewmaker-0.safetensors" in printed
    view = viewaug.load(tmp_path / "viewmaker-0.safetensors")(x)
    torch.testing.assert_close(viewaug.distortion(x, view), torch.full((2,), 0.05))

    # Started again, it runs what is missing alone.
    (tmp_path / "cells" / "random-0.json").unlink()
    runs = []
    pretrain = demo.pretrain
    monkeypatch.setattr(demo, "pretrain", lambda *rest: runs.append(rest[:2]) or pretrain(*rest))
    main(QUICK + out)
    assert runs == [("random", 0)]

    with pytest.raises(SystemExit):
        main([*QUICK, *out, "--budget", "0.1"])
    assert "other settings" in capsys.readouterr().err


def test_methods(tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path), "--methods", "colour", "random+colour", "supervised"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^\| colour +\| .*\n\| random\+colour +\| .*\n\| supervised +\| ", printed, re.MULTILINE)
    names = {"cells", "colour-0.safetensors", "random+colour-0.safetensors"}
    names |= {f"{method}-0.pt2" for method in ("colour", "random+colour", "supervised")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"data.npz", "results.json", "views.png"}
    assert viewaug.load(tmp_path / "colour-0.safetensors").config["perturbation"] == "colour"
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["colour", "random+colour", "supervised"]
    twin = viewaug.load(tmp_path / "random+colour-0.safetensors").config
    assert (twin["generator"], twin["perturbation"]) == ("random", "colour")


def test_validation(tmp_path, capsys):
    """Probes score every tenth training image, which nothing is trained on, and no test image."""
    train, held_out = demo.splits(demo.Settings(train_images=40, validation=True))
    whole = photo_digits(40, train=True)
    assert torch.equal(held_out.images, whole.images[9::10])
    assert torch.equal(train.digit, torch.cat([whole.digit[i : i + 9] for i in range(0, 40, 10)]))
    options = ["--images", "150", "--validation", "--methods", "none", "--out", str(tmp_path)]
    assert main([*QUICK, *options]) == 0
    assert "on held-out training images" in capsys.readouterr().out
    cell = json.loads((tmp_path / "results.json").read_text())["cells"][0]
    assert all(cell[task] * 15 / 100 == pytest.approx(round(cell[task] * 15 / 100)) for task in demo.TASKS)
    with pytest.raises(SystemExit):
        main([*QUICK, "--validation", "--out", str(tmp_path / "too-few")])
    assert "--images" in capsys.readouterr().err


def test_table():
    cells = [
        {"method": "spectral+colour+warp", "seed": 0, "photo": 10.0, "digit": 20.0, "loss": 1.0},
        {"method": "spectral+colour+warp", "seed": 1, "photo": 20.0, "digit": 20.0, "loss": 1.5},
        {"method": "untrained", "seed": 0, "photo": 7.0, "digit": 8.0},
    ]
    title, _, *lines = demo.table(cells).splitlines()
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
        (["demo", "--budget", "-1"], "--budget"),
        (["demo", "--seeds", "0"], "--seeds"),
        (["demo", "--images", "5"], "--images"),
        (["demo", "--device", "abacus"], "--device"),
        (["demo", "--generator", "unet"], "--generator"),
        (["demo", "--methods"], "--methods"),
        (["demo", "--methods", "none", "dance"], "--methods: Expected `perturbation` to be one of"),
        (["demo", "--methods", "none", "dance"], "'dance'"),
        (["demo", "--methods", "warp+dance"], "'dance'"),
        (["demo", "--methods", "gain"], "Gain"),  # of waveforms
        (["demo", "--methods", "byol:supervised"], "supervised has no objective"),
        (["demo", "--methods", "kornia"], "'kornia'"),  # which needs options
        (["dance"], "dance"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_version_and_help(capsys):
    for arguments, expected in (
        (["--version"], viewaug.__version__),
        (["--help"], "demo"),
        (["demo", "--help"], "--seeds"),
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


def test_other_objectives_and_the_original_protocol(tmp_path, capsys):
    methods = [f"{name}:learned" for name in ("byol", "simsiam", "vicreg", "barlow", "moco")] + ["original"]
    main([*QUICK, "--methods", *methods, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(f"| {method}" in printed for method in methods)
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert all(0 < cell["spread"] <= 1.01 for cell in cells)
