"""``viewaug compare``: planted cases, the verdict, equal prices, resuming, the report, its code, and bad input."""

import errno
import functools
import json
import math
import shutil
import zipfile
from pathlib import Path

import forked
import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.utils.data import DataLoader
from viewaug.adapters.solo_learn import Settings as SoloSettings

import viewaug
from viewaug import Viewmaker, load, save
from viewaug.cli import main
from viewaug.comparison import Comparison, grid, study
from viewaug.comparison import arrays as arrays_module
from viewaug.comparison.arrays import TEST, TRAIN, VALIDATION, Arrays, read_arrays
from viewaug.comparison.cells import Cell, Settings, kind_of, labelled, pretrain
from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.expert import EXPERTS
from viewaug.comparison.grid import write_json
from viewaug.comparison.objectives import OBJECTIVES, ModifiedNTXent, objective
from viewaug.comparison.plan import make_plan
from viewaug.comparison.proxies import effective_rank, retrieval
from viewaug.comparison.training import hardest
from viewaug.comparison.verdict import agree, interval, judge
from viewaug.comparison.views import Kind, default_methods, parse

N = 1000
SPLIT = np.repeat(["train", "validation", "test"], [400, 200, 400])
LABEL = np.arange(N) % 4
IMAGES = Kind(3, (32, 32), (0.0, 1.0), [0.5] * 3, [0.2] * 3)
SERIES = Kind(6, (100,), None, [0.0] * 6, [1.0] * 6)
long = functools.partial(pytest.param, marks=pytest.mark.long)
KINDS = {
    "images": IMAGES,
    "spectrograms": Kind(1, (40, 33), None, [-20.0], [5.0]),
    "bands": Kind(13, (16, 16), (0.0, 1.0), [0.5] * 13, [0.2] * 13),
    "series": SERIES,
    "waveforms": Kind(1, (400,), (-1.0, 1.0), [0.0], [0.3]),
    "volumes": Kind(1, (8, 9, 10), None, [0.0], [1.0]),
}


@pytest.fixture(autouse=True)
def one_price(monkeypatch):
    """The same for all, so that the number of steps is the same on every machine."""
    monkeypatch.setattr(study, "price", lambda *arguments: 0.01)


def waves(rng, label, side: int, low: float, step: float):
    """Sines of a random phase; the class is in the frequency."""
    return np.sin(2 * np.pi * (low + step * label)[:, None] * np.arange(side) / side + rng.uniform(0, 6.28, (N, 1)))


def small(n: int = 96) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    side, rhythm = rng.integers(0, 2, n), np.arange(n) % 3
    x = 0.3 * rng.standard_normal((n, 3, 32))
    x += np.sin((0.5 + rhythm[:, None, None]) * np.arange(32) + rng.uniform(0, 6, (n, 1, 1)))
    x[:, 2] += side[:, None]
    return x.astype(np.float32), {"rhythm": rhythm, "side": side}


def write(folder: Path, **changes) -> Path:
    x, labels = small()
    arrays = {"x": x, **labels, **changes}
    np.savez(folder / "data.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder / "data.npz"


def run(*arguments) -> int:
    return main(["compare", *map(str, arguments)])


class TestPlanted:
    """An easy feature, by which samples are told apart, and that one kind of views alone destroys."""

    def compare(self, x, methods):
        return viewaug.compare(
            x.astype(np.float32), LABEL, split=SPLIT, methods=methods, seeds=3, trials=1, steps=60, batch=64
        )

    def check(self, comparison, winner):
        assert comparison.best == winner
        assert comparison.verdicts["residual"].equals == [], comparison.table
        assert comparison.verdict.startswith(f"Take {winner}: ")

    def test_channels(self):
        rng = np.random.default_rng(0)
        x = 0.6 * waves(rng, LABEL, 48, 3, 2)[:, None].repeat(3, 1) + 0.5 * rng.standard_normal((N, 3, 48))
        x[:, 0] = 6 * np.repeat(rng.standard_normal((N, 6)), 8, 1)  # one channel says which sample it is
        self.check(self.compare(x, ["none", "noise", "channel-mask"]), "channel-mask")

    def test_a_place(self):
        rng = np.random.default_rng(0)
        x = waves(rng, LABEL, 16, 1.5, 1)[:, None, None].repeat(16, 2) + 0.3 * rng.standard_normal((N, 1, 16, 16))
        x[:, :, :4] += 4 * rng.standard_normal((N, 1, 4, 16))  # and so does a stripe at the top
        self.check(self.compare(x, ["none", "noise", "mask"]), "mask")

    @pytest.mark.long
    def test_fine_detail(self):
        rng = np.random.default_rng(0)
        x = waves(rng, LABEL, 8, 0.5, 0.75)[:, None, None, None] + 1.0 * rng.standard_normal((N, 1, 8, 8, 8))
        self.check(self.compare(x, ["none", "mixup", "noise@0.5"]), "noise@0.5")

    def test_nothing_to_find(self):
        x = np.random.default_rng(0).standard_normal((N, 2, 32))
        comparison = self.compare(x, ["none", "noise", "mask"])
        assert "not told apart" in comparison.verdict


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of a comparison with trials, two encoders and one's own views, and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    data = write(folder, weights=np.ones(96), group=np.arange(96) // 4)
    (folder / "own_views.py").write_text("def flip(x):\n    return x.flip(-1)\n")
    command = ["-m", "viewaug.cli", "compare", "--data", data, "--out", folder / "out"]
    options = ["--methods", "none", "learned:mask", "--with", "mine=own_views:flip"]
    options += ["--encoders", "2", "--seeds", "3", "--trials", "2", "--steps", "4", "--workers", "1"]
    done = forked.run([*command, *options], cwd=folder, env={"PATH": "", "HOME": str(folder)})
    assert done.returncode == 0, done.stderr
    return folder, options, done.stdout


class TestCommand:
    def test_report(self, finished):
        folder, _, printed = finished
        report = (folder / "out" / "report.md").read_text()
        for text in (
            "Labels: rhythm, side.",
            "weights (96,) float64",
            "by 2 trials",
            "residual and plain",
            "seeds: 3",
            "would have chosen",
            "ms a step",
        ):
            assert text in report, text
        assert "With the encoder plain" in printed
        for name in ("views.png", "accuracy.png", "results.json"):
            assert (folder / "out" / name).stat().st_size > 1000
        results = json.loads((folder / "out" / "results.json").read_text())
        assert results["settings"]["encoders"] == ["residual", "plain"]
        # none and one's own have no strengths to try
        assert sum(cell["trial"] for cell in results["cells"]) == 2 * 1 * 2
        assert sum(not cell["trial"] for cell in results["cells"]) == 2 * 3 * 3

    def test_the_price_is_equal(self, finished):
        """Steps times the price of a step, which a resumed cell gets, too."""
        plan = json.loads((finished[0] / "out" / "plan.json").read_text())
        for cell in json.loads((finished[0] / "out" / "results.json").read_text())["cells"]:
            price = plan["prices"][cell["encoder"]][cell["method"]]
            assert cell["steps"] == max(1, round(plan["seconds"] / price))

    def test_goes_on(self, finished):
        """A lost cell is run anew, and the same as before; the others stay."""
        folder, options, printed = finished
        cells = sorted((folder / "out" / "cells").glob("*.json"))
        lost = next(file for file in cells if file.match("plain-learned=mask*-1.json"))
        before, rest = lost.read_text(), {file: file.stat().st_mtime_ns for file in cells if file != lost}
        lost.unlink()
        data = folder / "data.npz"
        command = ["-m", "viewaug.cli", "compare", "--data", data, "--out", folder / "out", *options]
        again = forked.run(command, cwd=folder, env={"PATH": "", "HOME": str(folder)})
        assert again.returncode == 0, again.stderr
        old, new = json.loads(before), json.loads(lost.read_text())
        for cell in (old["cell"], new["cell"]):
            cell.pop("seconds")
            cell["curve"] = []
        assert new == old
        assert {file: file.stat().st_mtime_ns for file in rest} == rest
        assert again.stdout.endswith(printed)  # after what was there already

    @pytest.mark.long
    def test_two_workers(self, finished):
        """They find what one does."""
        folder, options, printed = finished
        shutil.copytree(folder / "out", folder / "two", ignore=shutil.ignore_patterns("cells"))
        options = [*options[:-1], "2"]
        command = ["-m", "viewaug.cli", "compare", "--data", folder / "data.npz", *options, "--out", folder / "two"]
        done = forked.run(command, cwd=folder, env={"PATH": "", "HOME": str(folder)})
        assert done.returncode == 0, done.stderr
        assert done.stdout == printed.replace(str(folder / "out"), str(folder / "two"))

    def test_other_settings_are_refused(self, finished, capsys):
        with pytest.raises(SystemExit):
            run("--data", finished[0] / "data.npz", "--out", finished[0] / "out", "--batch", 8, "--steps", 2)
        assert "other data or settings" in capsys.readouterr().err

    @pytest.mark.parametrize("host", ["train.py", *(long(f"train_by_{name}.py") for name in ("lightly", "lightning"))])
    def test_code_runs_as_printed(self, finished, host):
        code = finished[0] / "out" / "snippets" / host
        assert code.read_text().rstrip() in (finished[0] / "out" / "report.md").read_text()
        done = forked.run([code], cwd=finished[0])
        assert done.returncode == 0, done.stderr

    def test_a_full_disk(self, tmp_path, capsys, monkeypatch):
        """It loses the cell that was running, and nothing else."""
        arguments = ["--data", write(tmp_path), "--out", tmp_path / "out", "--steps", 2, "--seeds", 3]
        arguments += ["--methods", "none", "--trials", 1]

        def full(file, content, whole=grid.write_json):
            if file.name.endswith("-2.json"):
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(file, content)

        monkeypatch.setattr(grid, "write_json", full)
        with pytest.raises(SystemExit):
            run(*arguments)
        assert "No space left" in capsys.readouterr().err
        cells = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").glob("*.json")}
        assert len(cells) == 2
        monkeypatch.setattr(grid, "write_json", write_json)
        run(*arguments)
        assert "by 3 seeds" in capsys.readouterr().out
        assert {file: file.stat().st_mtime_ns for file in cells} == cells

    def test_estimate(self, tmp_path, capsys):
        run(
            "--data",
            write(tmp_path),
            "--out",
            tmp_path / "out",
            "--estimate",
            "--minutes",
            10,
            "--methods",
            "none",
            "mask",
        )
        printed = capsys.readouterr().out
        assert "ms a step" in printed
        assert "minutes" in printed
        assert not (tmp_path / "out" / "cells").exists()

    def test_help(self, capsys):
        with pytest.raises(SystemExit):
            run("--help")
        assert "channel-mask" in capsys.readouterr().out


SNIPPETS = ["none", "expert", "hard", "mixup", "learned:blend+additive", "learned:mask", "expert@0.5/learned"]
SNIPPETS += ["frozen:photographs", "warm:photographs"]


@pytest.fixture(scope="module")
def shown():
    """A comparison of images, of whose methods code is printed."""
    x = np.random.default_rng(0).uniform(size=(64, 3, 16, 16)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "price", lambda *arguments: 0.01)
        return viewaug.compare(x, np.arange(64) % 2, methods=SNIPPETS, seeds=1, trials=1, steps=2), x


class TestSnippets:
    @pytest.mark.parametrize("host", ["plain", "lightly", "lightning"])
    @pytest.mark.parametrize("method", SNIPPETS)
    def test_runs(self, shown, host, method, tmp_path, monkeypatch):
        found, x = shown
        np.savez(tmp_path / "mine.npz", x=x)
        monkeypatch.chdir(tmp_path)
        names: dict = {"__name__": "snippet"}
        exec(compile(found.snippet(host, method), "snippet", "exec"), names)
        model = names["model"] if host != "lightning" else names["trainer"].lightning_module
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert ("JointOptimizer" in names) == (host != "lightning" and ("learned" in method or "warm" in method))
        if "photographs" in method:
            learned = load("photographs").state_dict()
            same = all(torch.equal(value, learned[name]) for name, value in names["viewmaker"].state_dict().items())
            assert same == method.startswith("frozen")

    def test_of_solo_learn_is_a_configuration(self, shown):
        from omegaconf import OmegaConf

        node = OmegaConf.create(shown[0].snippet("solo-learn", "learned:blend+additive"))
        viewmaker = SoloSettings.of(node).build()
        assert viewmaker.config["perturbation"] == [{"name": "mix", "edge": 0.5}, "additive"]
        assert viewmaker.units == "std"
        node = OmegaConf.create(shown[0].snippet("solo-learn", "frozen:photographs"))
        assert SoloSettings.of(node).build().state_dict().keys() == load("photographs").state_dict().keys()

    def test_what_a_host_cannot_take(self, shown):
        with pytest.raises(ValueError, match="solo-learn"):
            shown[0].snippet("solo-learn", "none")
        with pytest.raises(ValueError, match="`host`"):
            shown[0].snippet("keras")


class TestPython:
    def test_result(self):
        x, labels = small()
        found = viewaug.compare(x, labels, methods=["none", "learned"], seeds=2, trials=1, steps=3)
        assert found.table.count("\n") == 3
        assert found.best in ("none", "learned")
        assert "it takes 3 seeds, and there are 2" in found.verdict
        assert len(found.plot().axes) == 2
        assert found.viewmakers["residual", "learned"].generator.maps == 3

    @pytest.mark.parametrize("labelled_by", ["number", "dictionary"])
    def test_data_set(self, labelled_by):
        x, labels = small()
        rows = [
            (torch.from_numpy(row), int(kind) if labelled_by == "number" else {"rhythm": kind, "side": side})
            for row, kind, side in zip(x, labels["rhythm"], labels["side"], strict=True)
        ]
        options = {"methods": ["mask"], "seeds": 1, "trials": 1, "steps": 3}
        given = {"label": labels["rhythm"]} if labelled_by == "number" else labels
        expected = viewaug.compare(x, given, **options).cells[0]["test"]
        assert viewaug.compare(DataLoader(rows, batch_size=4), **options).cells[0]["test"] == expected

    def test_a_folder_stays_on_the_disk(self, tmp_path):
        x, labels = small()
        for name, array in ({"x": x} | labels).items():
            np.save(tmp_path / f"{name}.npy", array)
        assert isinstance(read_arrays(tmp_path).x, np.memmap)
        options = {"methods": ["noise"], "seeds": 1, "trials": 1, "steps": 3}
        found = viewaug.compare(tmp_path, workers=1, **options).cells[0]
        one = viewaug.compare(tmp_path, ["side"], workers=1, **options)
        assert list(one.cells[0]["test"]) == ["side"]
        assert "rhythm (96,)" in one.notes[1]
        assert found["test"] == viewaug.compare(x, labels, **options).cells[0]["test"]

    def test_without_labels(self):
        found = viewaug.compare(small()[0], methods=["none", "noise"], seeds=3, trials=1, steps=3)
        assert found.best is None
        assert "no labels" in found.verdict
        assert "rank" in found.table

    def test_few_labels(self):
        x, labels = small()
        found = viewaug.compare(x, labels, methods=["none"], seeds=1, trials=1, steps=2, labelled=12)
        assert found.settings["labelled"] == 12
        places = labelled(found.arrays, 12)
        assert len(places) == 12
        assert (found.arrays.part[places] == TRAIN).all()
        assert len(found.arrays.labels["rhythm"][places].unique()) == 3

    def test_unknown_labels(self):
        """Where a label is -1 it is as if there were no sample, but for pretraining."""
        x, labels = small()
        rhythm = np.where(np.arange(96) % 2, -1, labels["rhythm"])
        methods = ["none", "supervised"]
        found = viewaug.compare(x, {"rhythm": rhythm}, methods=methods, seeds=1, trials=1, steps=3)
        assert "`rhythm` is known of 48 inputs." in found.notes
        for cell in found.cells:
            known = int((found.arrays.labels["rhythm"][found.arrays.part == TEST] >= 0).sum())
            assert cell["test"]["rhythm"] * known / 100 == pytest.approx(round(cell["test"]["rhythm"] * known / 100))
        assert (found.arrays.labels["rhythm"][labelled(found.arrays, None)] >= 0).all()

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_objectives(self, name):
        x, labels = small()
        options = {"methods": ["learned", "hard"], "seeds": 1, "trials": 1, "steps": 3}
        found = viewaug.compare(x, labels, objective=name, **options)
        assert all(math.isfinite(cell["loss"]) for cell in found.cells)

    def test_the_callers_random_numbers_stay(self):
        x, labels = small()
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        viewaug.compare(x, labels, methods=["noise"], seeds=1, trials=1, steps=2)
        assert torch.equal(torch.rand(1), expected)

    def test_a_network_that_diverges(self):
        x, labels = small()
        found = viewaug.compare(1e30 * x, labels, methods=["none"], seeds=1, trials=1, steps=2)
        assert all(math.isfinite(score) for score in found.cells[0]["test"].values())

    def test_stops_in_time(self, monkeypatch):
        x, labels = small()
        monkeypatch.setattr(study, "_LATE", -1)
        found = viewaug.compare(x, labels, methods=["none"], seeds=3, trials=1, minutes=0.2)
        assert {cell["seed"] for cell in found.cells} == {0}
        assert any("time was up after 1 of 3" in note for note in found.notes)


class TestArrays:
    def test_parts(self):
        x, labels = small()
        found = Arrays.of(x, labels)
        assert [int((found.part == part).sum()) for part in (TRAIN, VALIDATION, TEST)] == [57, 19, 20]
        for part in (TRAIN, VALIDATION, TEST):
            counts = found.labels["rhythm"][found.part == part].bincount()
            assert counts.max() - counts.min() <= 2
        np.testing.assert_allclose(found.mean, x[found.part.numpy() == TRAIN].mean((0, 2)), atol=1e-6)
        np.testing.assert_allclose(found.std, x[found.part.numpy() == TRAIN].std((0, 2)), rtol=1e-5)

    def test_groups_stay_together(self):
        x, labels = small()
        group = np.random.default_rng(1).integers(0, 12, 96)
        found = Arrays.of(x, labels, group=group)
        for one in np.unique(group):
            assert len(found.part[group == one].unique()) == 1
        assert len(found.part.unique()) == 3

    @pytest.mark.parametrize("values", [("train", "test"), (0, 1), (False, True)])
    def test_a_given_split(self, values):
        x, labels = small()
        split = np.array(values)[(np.arange(96) >= 64).astype(int)]
        found = Arrays.of(x, labels, split=split)
        assert (found.part[64:] == TEST).all()
        assert 0 < (found.part == VALIDATION).sum() < 20

    def test_value_ranges(self):
        rng = np.random.default_rng(0)
        bytes_ = Arrays.of(rng.integers(0, 256, (50, 1, 8, 8)).astype(np.uint8), {"a": np.arange(50) % 2})
        assert bytes_.value_range == (0.0, 255.0)
        assert bytes_.take(torch.tensor([1])).dtype == torch.float32
        assert Arrays.of(rng.uniform(size=(50, 1, 8, 8)), None).value_range == (0.0, 1.0)
        assert Arrays.of(rng.standard_normal((50, 1, 8, 8)), None).value_range is None

    def test_chunks(self, monkeypatch):
        x, labels = small()
        whole = Arrays.of(x, labels)
        monkeypatch.setattr(arrays_module, "_CHUNK", 7 * 96)
        parts = Arrays.of(x, labels)
        np.testing.assert_allclose(parts.std, whole.std, rtol=1e-9)


X = small()[0]
BAD = {
    "an array `x`": {"x": None},
    "1 to 3 dimensions": {"x": X[:, 0]},
    "to hold numbers": {"x": X.astype(str)},
    "`rhythm` to have the shape": {"rhythm": np.arange(93) % 3},
    "`rhythm` to have two classes": {"rhythm": np.zeros(96, int)},
    "`rhythm` to hold integers from 0": {"rhythm": np.arange(96) % 3 - 2},
    "known values of `rhythm`": {
        "rhythm": np.where(np.arange(96) < 60, np.arange(96) % 3, -1),
        "split": np.arange(96) > 70,
    },
    "class of `rhythm` in the training": {"rhythm": np.arange(96) // 64, "split": np.arange(96) // 64},
    "finite, but sample 3": {"x": np.where(np.arange(96)[:, None, None] == 3, np.nan, X)},
    "channel 1 is constant": {"x": np.where(np.arange(3)[:, None] == 1, 5.0, X)},
    "within `value_range`": {"value_range": np.array([0.0, 1.0])},
    "`value_range` to be": {"value_range": np.array([1.0, 0.0])},
    "at least a batch of": {"x": X[:20], "rhythm": np.arange(20) % 3, "side": np.arange(20) % 2},
    "`split` to be": {"split": np.arange(96) % 3},
    "part test": {"split": np.zeros(96, int)},
    "`split` to have the shape": {"split": np.zeros(5, int)},
    "`group` to have three": {"group": np.arange(96) % 2},
    "`group` to lie in one part": {"group": np.arange(96) % 3, "split": np.arange(96) % 2},
}


class TestBadInput:
    @pytest.mark.parametrize("message", BAD)
    def test_arrays_are_named(self, message, tmp_path, capsys):
        with pytest.raises(SystemExit):
            run("--data", write(tmp_path, **BAD[message]), "--out", tmp_path / "out", "--steps", 2)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "cells").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--methods", "nonsense"], "a method of none"),
            (["--methods", "learned:nonsense"], "nonsense"),
            (["--methods", "noise@-1"], "positive strength"),
            (["--methods", "none@1"], "no strength"),
            (["--methods", "learned:colour"], "colour"),
            (["--methods", "expert:simclr"], "simclr"),
            (["--methods", "expert:nonsense"], "an expert of"),
            (["--methods", "mask/learned"], "views by hand, a slash"),
            (["--methods", "frozen"], "as in frozen:photographs"),
            (
                ["--methods", "warm:photographs"],
                "for 3 channels and 1 spatial dimensions, but photographs is for 3 and 2",
            ),
            (["--methods", "frozen:nonsense"], "photographs, smartwatch, but found none at nonsense"),
            (["--methods", "frozen:no/where@0.1"], "found none at no/where"),
            (["--with", "mine=nowhere:at_all"], "nowhere"),
            (["--with", "mine"], "NAME=MODULE:FUNCTION"),
            (["--encoder", "nonsense"], "`encoder`"),
            (["--encoder", "math:sqrt"], "math:sqrt"),
            (["--encoder", "plain", "--encoder", "plain"], "different"),
            (["--objective", "nonsense"], "`objective`"),
            (["--batch", "90"], "at least a batch of 90"),
            (["--device", "nonsense"], "nonsense"),
        ],
    )
    def test_options(self, options, message, tmp_path, capsys):
        with pytest.raises(SystemExit):
            run("--data", write(tmp_path), "--out", tmp_path / "out", "--steps", 2, *options)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "cells").exists()

    def test_files(self, tmp_path, capsys, monkeypatch):
        (tmp_path / "broken.npz").write_bytes(b"nothing")
        np.save(tmp_path / "one.npy", np.ones(3))
        np.savez_compressed(tmp_path / "large.npz", x=np.zeros((100, 1, 50_000), dtype=np.float32))
        monkeypatch.setattr("viewaug.comparison.arrays._LARGE", 10**6)
        with zipfile.ZipFile(tmp_path / "odd.npz", "w") as file:
            file.writestr("x.txt", "nothing")
        for place, message in (
            ("absent.npz", "no such file"),
            ("broken.npz", "cannot be read"),
            ("one.npy", "one array"),
            ("odd.npz", "holds 'x.txt', which is no array"),
            ("large.npz", "would unpack to"),
        ):
            with pytest.raises(SystemExit):
                run("--data", tmp_path / place, "--out", tmp_path / "out")
            assert message in capsys.readouterr().err

    def test_python(self, tmp_path):
        x, labels = small()
        with pytest.raises(ValueError, match="names of arrays beside a path"):
            viewaug.compare(write(tmp_path), labels)
        with pytest.raises(ValueError, match="`labels` of rhythm, side, but got 'speed'"):
            viewaug.compare(write(tmp_path), ["speed"])
        with pytest.raises(ValueError, match="`group` beside a path"):
            viewaug.compare(write(tmp_path), group=labels["side"])
        with pytest.raises(ValueError, match="`side` to hold integers"):
            viewaug.compare(x, {"side": labels["side"].astype(float)})
        with pytest.raises(ValueError, match="`minutes`"):
            viewaug.compare(x, labels, minutes=0)
        with pytest.raises(ValueError, match="`seeds`"):
            viewaug.compare(x, labels, seeds=0)
        with pytest.raises(ValueError, match="data set of pairs"):
            viewaug.compare([torch.zeros(3)] and DataLoader([torch.zeros(3)]))


class TestVerdict:
    def test_interval_is_students(self):
        values = [70.1, 72.5, 69.9, 71.0]
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert interval(values) == pytest.approx(tuple(expected))
        wider = scipy.stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 4)
        assert interval(values, 4) == pytest.approx(tuple(wider))

    def test_differences_are_paired(self):
        """Seeds differ by ten points, the methods always by two."""
        seeds = np.array([50.0, 60.0, 70.0, 65.0])
        scores = {"a": list(seeds), "b": list(seeds + 2 + [0.1, -0.1, 0.05, 0.0])}
        verdict = judge(scores, scores)
        assert verdict.best == "b"
        assert verdict.differences["a"].told_apart
        assert "better than a, by 4 seeds" in verdict.sentence

    def test_the_best_is_chosen_on_validation(self):
        test = {"a": [50.0, 51.0, 50.0], "b": [60.0, 61.0, 60.0], "c": [50.0, 51.1, 50.0]}
        validation = {"a": [70.0] * 3, "b": [60.0] * 3, "c": [60.0] * 3}
        verdict = judge(validation, test)
        assert verdict.best == "a"
        assert verdict.equals == ["c"]
        assert "worse in the test than b" in verdict.sentence

    def test_too_few_seeds(self):
        assert "there is 1" in judge({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [2.0]}).sentence

    def test_a_single_method(self):
        assert "only a was compared" in judge({"a": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0, 3.0]}).sentence

    def test_two_encoders(self):
        a, b = [60.0, 61.0, 60.5], [50.0, 51.0, 50.5]
        first, second = judge({"a": a, "b": b}, {"a": a, "b": b}), judge({"a": b, "b": a}, {"a": b, "b": a})
        assert "an encoder's, not the data's" in agree({"residual": first, "plain": second})
        assert agree({"residual": first, "plain": first}).endswith("both encoders, residual and plain: a.")


PRICES = {"residual": {"none": 0.01, "learned": 0.03}}


class TestPlan:
    def plan(self, seconds, **options):
        given = {"trials": 3, "seeds": 5, "overhead": 1.0, "workers": 1} | options
        return make_plan(PRICES, {"learned": 3}, seconds=seconds, **given)

    def test_fits(self):
        for seconds in (60, 600, 6000):
            plan = self.plan(seconds)
            assert plan.minutes() * 60 == pytest.approx(seconds)
            assert plan.steps("residual", "none") == pytest.approx(3 * plan.steps("residual", "learned"), abs=3)

    def test_gives_up_trials_and_then_seeds(self):
        assert (self.plan(600).trials, self.plan(600).seeds, self.plan(600).notes) == (3, 5, ())
        assert (self.plan(17).trials, self.plan(17).seeds) == (1, 5)
        short = self.plan(10)
        assert (short.trials, short.seeds) == (1, 3)
        assert "3 of 5 seeds" in short.notes[1]
        assert "less than 20 steps" in self.plan(1).notes[-1]

    def test_workers_share_it(self):
        assert self.plan(600, workers=2).seconds > 1.9 * self.plan(600).seconds


class TestMethods:
    @pytest.mark.parametrize("name", KINDS)
    def test_defaults_fit_every_kind(self, name):
        kind = KINDS[name]
        x = torch.rand(8, kind.channels, *kind.size)
        on_top = ["expert/learned", "expert@0.5/random:mask"] if "expert" in default_methods(kind) else []
        for method in [*default_methods(kind), "hard", "random", *on_top]:
            found = parse(method, kind)
            strengths = found.strengths(kind)
            assert len(strengths) in (0, 3)
            views = found.views(kind, strengths[0] if strengths else None)
            view = x if views.augment is None else views.augment(x)
            view = view if views.viewmaker is None else views.viewmaker(view)
            assert view.shape == x.shape
            assert view.isfinite().all()
            assert torch.equal(view, x) == (method == "none")

    @pytest.mark.parametrize(("name", "kind"), [("waveform", "waveforms"), ("specaugment", "spectrograms")])
    def test_experts_by_name(self, name, kind):
        x = torch.rand(4, 1, *KINDS[kind].size)
        assert parse(f"expert:{name}", KINDS[kind]).views(KINDS[kind], None).augment(x).shape == x.shape

    @pytest.mark.parametrize("name", EXPERTS)
    def test_experts_refuse_other_kinds(self, name):
        kind = KINDS["bands"] if name != "specaugment" else SERIES
        with pytest.raises(ValueError, match=name):
            parse(f"expert:{name}", kind)

    def test_strength(self):
        assert parse("noise@0.3", IMAGES).viewmaker(IMAGES, 0.3).budget == 0.3
        assert parse("learned:mask", IMAGES).viewmaker(IMAGES, 0.5).strength == 0.5
        learned = parse("learned", IMAGES)
        assert learned.views(IMAGES, 0.3).difficulty == 0.3
        assert learned.views(IMAGES, 0.3, contrastive=False).viewmaker.budget == 0.3

    def test_trained(self, tmp_path):
        """Of the package or a file, in whichever value range; a path may have slashes and strengths in it."""
        bytes_ = IMAGES._replace(value_range=(0.0, 255.0))
        ours = load("photographs")
        file = tmp_path / "residual-learned@0.1-0.safetensors"
        save(ours, file)
        for name in ("frozen:photographs", f"warm:{file}", f"expert/frozen:{file}"):
            views = parse(name, bytes_).views(bytes_, None)
            assert views.viewmaker.value_range == (0.0, 255.0)
            x = torch.rand(4, 3, 16, 16)
            noise = ours.draw_noise(x)
            torch.testing.assert_close(views.viewmaker(255 * x, noise) / 255, ours(x, noise), rtol=1e-3, atol=1e-4)
            assert (views.augment is not None) == name.startswith("expert")
        method = parse(f"frozen:{file}@0.3", IMAGES)
        assert method.views(IMAGES, method.strength).viewmaker.budget == 0.3
        assert method.kinds == (str(file),)
        assert parse("frozen:photographs", IMAGES).strengths(IMAGES)[0] == pytest.approx(ours.budget, rel=1e-2)
        assert parse("warm:photographs", IMAGES).strengths(IMAGES) == parse("learned", IMAGES).strengths(IMAGES)
        with pytest.raises(ValueError, match="views by hand, a slash"):
            parse("mask/frozen:photographs", IMAGES)
        with pytest.raises(ValueError, match="the value range None"):
            parse("frozen:photographs", IMAGES._replace(value_range=None))

    def test_frozen_ones_stay_and_warm_ones_learn(self, tmp_path):
        x, _ = small()
        viewmaker = Viewmaker(3, dims=1, value_range=None, units="std", budget=0.2)
        save(viewmaker, tmp_path / "mine.safetensors")
        arrays, before = Arrays.of(x), viewmaker.state_dict()
        for maker in ("frozen", "warm"):
            method = parse(f"{maker}:{tmp_path / 'mine.safetensors'}", kind_of(arrays))
            cell = Cell(method, 0.1, "residual", 0, 4, final=True)
            found = pretrain(cell, arrays, Settings(batch=16), "cpu").views.viewmaker
            same = [torch.equal(value, before[name]) for name, value in found.state_dict().items()]
            assert all(same) if maker == "frozen" else not any(same)
            assert (found.budget == 0.1) == (maker == "frozen")  # the other is steered, from its own

    def test_sensors_turn_all_triples_alike(self):
        torch.manual_seed(0)
        x = torch.randn(64, 3, 100).repeat(1, 2, 1)
        view = EXPERTS["sensors"].build(SERIES, 0.3)(x)
        assert (view[:, :3] - view[:, 3:]).abs().mean() < 0.5 * (view - x).abs().mean()


class TestPieces:
    def test_encoders(self):
        for dims, size in ((1, (40,)), (2, (16, 17)), (3, (8, 9, 10))):
            for name in ("residual", "plain"):
                encoder, features = build_encoder(name, 2, dims, size=size)
                assert encoder(torch.rand(3, 2, *size)).shape == (3, features)
        encoder, features = build_encoder("resnet10t", 4, size=(32, 32))
        assert encoder(torch.rand(2, 4, 32, 32)).shape == (2, features)
        with pytest.raises(ValueError, match="for 1 dims"):
            build_encoder("resnet18", 3, 1, size=(40,))

    def test_hardest(self):
        class Same(nn.Module):
            def project(self, x):
                return x

        views = [torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.1], [0.0, 1.0]])]
        views.append(torch.tensor([[0.0, 1.0], [1.0, 0.1]]))
        first, second = hardest(Same(), views)
        assert torch.equal(first, torch.stack([views[0][0], views[0][1]]))
        assert torch.equal(second, torch.stack([views[2][0], views[1][1]]))

    def test_modified_features(self):
        """The mean of NT-Xent and of what has positives less alike by epsilon and negatives more, term by term."""
        torch.manual_seed(0)
        z0, z1 = torch.randn(3, 5), torch.randn(3, 5)
        z = nn.functional.normalize(torch.cat([z0, z1]))
        total = 0.0
        for epsilon in (0.0, 0.1):
            for i in range(6):
                j = (i + 3) % 6
                positive = math.exp((float(z[i] @ z[j]) - epsilon) / 0.5)
                rest = [math.exp((float(z[i] @ z[k]) + epsilon) / 0.5) for k in range(6) if k not in (i, j)]
                total -= math.log(positive / (positive + sum(rest))) / 12
        assert ModifiedNTXent(0.5)(z0, z1).item() == pytest.approx(total, rel=1e-5)

    def test_instance_discrimination_learns(self):
        torch.manual_seed(0)
        x = torch.randn(32, 8)
        loss = objective("instance", nn.Linear(8, 16), 16, 0.2, samples=32)
        adam = torch.optim.Adam(loss.parameters(), 1e-2)
        first = last = None
        for _ in range(60):
            index = torch.randperm(32)[:16]
            last = loss(x[index], x[index], index)
            first = last.item() if first is None else first
            adam.zero_grad()
            last.backward()
            adam.step()
        assert last.item() < 0.7 * first
        with pytest.raises(ValueError, match="`index`"):
            loss(x, x)

    def test_proxies(self):
        z = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        values = np.linalg.svd(z.double().numpy(), compute_uv=False)
        assert effective_rank(z) == pytest.approx(np.exp(scipy.stats.entropy(values)))
        assert retrieval(z, z.roll(1, 0)) == 0.0

    def test_a_cell_again_is_the_same(self):
        x, labels = small()
        arrays = Arrays.of(x, labels)
        method = parse("learned", kind_of(arrays))
        cells = [
            pretrain(Cell(method, 0.1, "residual", seed, 5, True), arrays, Settings(batch=16), "cpu")
            for seed in (0, 0, 1)
        ]
        weights = [torch.cat([p.flatten() for p in cell.encoder.parameters()]) for cell in cells]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert cells[0].loss == cells[1].loss


def test_results_that_lack_something(tmp_path):
    results = Path(__file__).parents[1] / "examples" / "results" / "demo" / "smartwatch" / "results.json"
    content = json.loads(results.read_text())
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    assert Comparison.read(file).verdict == Comparison.read(results).verdict
    del next(cell for cell in content["cells"] if cell["method"] == "noise" and not cell["trial"])["test"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"holds no comparison: KeyError\('test'\)"):
        Comparison.read(file)
