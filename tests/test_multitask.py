"""What both multi-task experiments share: data in pairs, the errors of their commands, and their report."""

import json

import numpy as np
import pytest
from viewaug.examples import multitask_audio, multitask_image
from viewaug.examples.multitask import figures, report
from viewaug.examples.multitask.pairs import Pairs
from viewaug.examples.multitask_image import ImageExperiment

from viewaug.comparison import training
from viewaug.comparison.verdict import with_interval


class Numbers(Pairs):
    """Pairs of nothing but what is drawn."""

    drawn = "number"

    def batch(self, indices):
        return {"views": [np.array(drawn) for drawn in self.draw_pairs(indices, lambda rng: rng.random())]}


def numbers(epoch: int = 0, **options) -> list[np.ndarray]:
    data = Numbers(**{"train": True, "seed": 0, "redraw": False, "shared": 1.0, **options})
    data.epoch = epoch
    return data.__getitems__(range(500))["views"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_pairs_share_what_is_drawn(share):
    x0, x1 = numbers(shared=share)
    assert (x0 == x1).mean() == pytest.approx(share, abs=0.1)
    y0, y1 = numbers(epoch=1, shared=share)  # the first view stays, the coin does not
    assert (x0 == y0).all()
    assert (x1 == y1).all() == (share == 1)
    assert not (numbers(redraw=True)[0] == numbers(epoch=1, redraw=True)[0]).any()
    assert not (x0 == numbers(seed=1)[0]).any()
    assert not (x0 == numbers(train=False)[0]).any()
    assert Numbers(train=True, seed=0, redraw=False, shared=share)[7]["views"] == [x0[7], x1[7]]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (multitask_image, ["--data", "nowhere.npz"], "nowhere.npz"),
        (multitask_image, ["--overlays", "stars"], "--overlays"),
        (multitask_audio, ["--speech", "nowhere.npz"], "nowhere.npz"),
        (multitask_audio, ["--noise", "nowhere.npz"], "nowhere.npz"),
        (multitask_audio, ["--mixtures", "music"], "--mixtures"),
        *(
            (command, arguments, message)
            for command in (multitask_image, multitask_audio)
            for arguments, message in (
                (["--methods", "dance"], "dance"),
                (["--budget", "-1"], "--budget"),
                (["report"], "found none"),
            )
        ),
    ],
)
def test_bad_arguments(command, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_intervals():
    assert with_interval([5.0]) == "5.0"
    assert with_interval([1.0, 3.0]) == "2.0 ± 12.7"  # 12.706 * sqrt(2) / sqrt(2)


def test_comparison_is_of_the_best_with_enough_seeds():
    def cells(name: str, overlay: list[float], minutes: float) -> list[dict]:
        common = {"overlay": "digits", "method": name, "seconds": 60 * minutes}
        scores = [{"background": 40.0, "overlay": value} for value in overlay]
        return [{**common, "seed": seed, "test": accuracy} for seed, accuracy in enumerate(scores)]

    found = [
        *cells("none", [90.0], 1.0),
        *cells("noise", [20.0, 22.0], 1.0),
        *cells("expert", [30.0, 32.0], 2.0),
        *cells("learned", [50.0, 52.0], 2.5),
        *cells("learned@0.2", [99.0], 2.5),
    ]
    table = report.comparison(ImageExperiment(), found)
    assert "| digits | learned | 45.5 ± 6.4 | expert | 35.5 ± 6.4 | 10.0 ± 0.0 | 1.25 |" in table
    assert report.comparison(ImageExperiment(), found[:1]) == ""
    found += [*cells("learned@0.1", [51.0, 53.0, 55.0], 3.0), *cells("crop", [30.0, 31.0, 32.0, 33.0], 2.0)]
    assert "| digits | learned@0.1 | 46.5 ± 2.5 | crop | 35.8 ± 1.0 | 11.0 ± 1.2 | 1.50 |" in report.comparison(
        ImageExperiment(), found
    )


def test_curves_of_a_budget_alone(tmp_path):
    curve = [{"epoch": 1, "seconds": 30.0, "background": 35.0}]
    common = {"overlay": "none", "method": "learned@0.1", "test": {"background": 40.0}, "seconds": 60.0}
    cells = [{**common, "curve": curve, "seed": seed} for seed in range(2)]
    figures.draw_curves(ImageExperiment(), cells, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_trials(tmp_path):
    assert report.trials(ImageExperiment(), tmp_path) == ""
    (tmp_path / "trials").mkdir()
    common = {"method": "viewmaker", "loss": 1.0, "budget": 0.1, "cpu_seconds": 90.0}
    accuracies = {"none": {"background": 40.0}, "digits": {"background": 40.0, "overlay": 20.0}}
    for overlay, accuracy in accuracies.items():
        cell = {**common, "overlay": overlay, "accuracy": accuracy}
        trial = {"note": "twice the rate", "settings": {}, "cell": cell}
        (tmp_path / "trials" / f"{overlay}.json").write_text(json.dumps(trial))
    table = report.trials(ImageExperiment(), tmp_path)
    assert "| digits | learned | twice the rate | 1 | 40.0 | 20.0 | 30.0 | 1.00 | 0.100 | 1.5 |" in table
    assert "| none | learned | twice the rate | 1 | 40.0 |  |  | 1.00 | 0.100 | 1.5 |" in table


@pytest.mark.parametrize(
    ("capability", "accelerator", "wanted", "expected"),
    [
        ("AVX512", "cpu", "bf16-mixed", "bf16-mixed"),
        ("AVX2", "cpu", "bf16-mixed", "32-true"),
        ("AVX2", "gpu", "bf16-mixed", "bf16-mixed"),
        ("AVX2", "cpu", "16-mixed", "16-mixed"),
    ],
)
def test_no_emulated_half_precision(capability, accelerator, wanted, expected, monkeypatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator == "gpu")
    assert training._precision(wanted, accelerator) == expected


def test_views_without_a_budget_have_none_in_the_table():
    common = {"loss": None, "seconds": 60.0}  # of training that diverged
    for reached, expected in (({"budget": None}, ""), ({"budget": 0.25}, "0.250"), ({}, "")):
        found = [{**common, "seed": seed, "test": {"a": 50.0 + seed}, "reached": reached} for seed in range(2)]
        columns = report._columns(found, {"a": "A"})
        assert (columns["budget"], columns["loss"]) == (expected, "")
