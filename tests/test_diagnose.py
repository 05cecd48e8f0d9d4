"""``viewaug diagnose``: what it measures, draws and writes, how it goes on, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import viewaug
from viewaug.cli import main
from viewaug.diagnosis import Data, Scores, agreement, score, summarise
from viewaug.metrics import mask_share
from viewaug.probes import Probe, save_probe


class Halves(nn.Module):
    """Features: the mean of the left and of the right half of an image."""

    def forward(self, x):
        left, right = x.mean(1).chunk(2, -1)
        return torch.stack([left.mean((1, 2)), right.mean((1, 2))], 1)


def files(folder, count=24, mask=True):
    """Images whose left half says one label, and whose right half another one."""
    torch.manual_seed(0)
    left, right = torch.arange(count) % 2, torch.arange(count) // 2 % 2
    x = torch.zeros(count, 3, 8, 8)
    x[..., :4] = 0.3 + 0.4 * left[:, None, None, None]
    x[..., 4:] = 0.3 + 0.4 * right[:, None, None, None]
    x = (x + 0.05 * torch.randn(x.shape)).clamp(0, 1)
    arrays = {"x": x.numpy(), "left": left.numpy(), "right": right.numpy()}
    if mask:
        arrays["mask"] = np.tile(np.arange(8) < 4, (count, 1, 8, 1)).astype(np.float32)
    np.savez(folder / "data.npz", **arrays)
    save_probe(Probe.fit(Halves(), x, {"left": left, "right": right}), folder / "own.pt2", x)
    save_probe(Probe.fit(nn.Flatten(), x, {"left": left, "right": right}), folder / "flat.pt2", x)
    viewaug.save(viewaug.Viewmaker(budget=0.1), folder / "viewmaker.safetensors")
    return x, left, right


def command(folder, *more):
    names = {"--checkpoint": ["viewmaker.safetensors"], "--data": ["data.npz"], "--probe": ["own.pt2", "flat.pt2"]}
    parts = [part for option, values in names.items() for part in (option, *(str(folder / v) for v in values))]
    return ["diagnose", *parts, "--views", "6", "--trust", "--out", str(folder / "out"), *more]


def test_score_and_summarise():
    """Views that blacken one half at random destroy that label on half of the views, and leave the other."""
    count = 40
    x = torch.full((count, 1, 4, 4), 0.9)
    ones = torch.ones(count, dtype=torch.long)
    data = Data(x, {"left": ones, "right": ones}, torch.ones(count, 1, 4, 4))

    def views(x, generator):
        keep = (torch.rand(len(x), generator=generator) < 0.5).float()[:, None, None, None]
        return torch.cat([x[..., :2] * keep, x[..., 2:]], -1)

    def scorer(x):
        left, right = x.mean(1).chunk(2, -1)
        return {
            name: torch.stack([0 * part, 40 * (part - 0.5)], 1)
            for name, part in (("left", left.mean((1, 2))), ("right", right.mean((1, 2))))
        }

    scores = score(views, {"exact": scorer}, data, 16)
    again = score(views, {"exact": scorer}, Data(x[:3], {"left": ones[:3], "right": ones[:3]}), 16)
    assert torch.equal(scores.probability["exact"]["left"][:3], again.probability["exact"]["left"])  # input i alone
    assert data.chance == {"left": 0.5, "right": 0.5}
    summary = summarise(scores, data.chance)["exact"]
    left, right = summary["tasks"]["left"], summary["tasks"]["right"]
    assert left["destruction"] == pytest.approx(0.5, abs=0.06)
    assert left["within"] == pytest.approx(1, abs=0.06)
    assert right["destruction"] == 0
    assert summary["dropout"]["one"] == left["destruction"]
    assert summary["dropout"]["dropout"][0] == [0, 1]
    assert scores.distortion["max"] == pytest.approx(0.45)
    assert json.loads(json.dumps(summary)) is not None


def test_agreement():
    p = torch.tensor([[0.1, 0.9]])
    scores = Scores({"a": {"t": p}, "b": {"t": p}, "c": {"t": 0 * p}}, None, {})
    assert agreement(scores, {"t": 0.5}) == {"a, b": {"t": 1.0}, "a, c": {"t": 0.5}, "b, c": {"t": 0.5}}


def test_mask_share():
    torch.manual_seed(0)
    x, view, mask = torch.rand(5, 3, 4, 6), torch.rand(5, 3, 4, 6), torch.rand(5, 1, 4, 6)
    change = np.abs((view - x).numpy())
    expected = [(c * m).sum() / c.sum() for c, m in zip(change, mask.numpy(), strict=True)]
    np.testing.assert_allclose(mask_share(x, view, mask), expected, rtol=1e-5)
    assert mask_share(x, x, mask).isnan().all()
    with pytest.raises(ValueError, match="`mask`"):
        mask_share(x, view, mask[:, 0])


def test_report(tmp_path, capsys, monkeypatch):
    files(tmp_path)
    (tmp_path / "mine.py").write_text("import torch\n\ndef dim(x):\n    return x * torch.rand(len(x), 1, 1, 1)\n")
    monkeypatch.chdir(tmp_path)
    arguments = command(tmp_path, "--compare", "dim=mine:dim")
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.md")
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert list(results["methods"]) == ["viewmaker", "noise", "dim"]
    assert list(results["methods"]["dim"]["scorers"]) == ["own", "flat"]
    assert results["inputs"] == 24
    assert results["mask_area"] == pytest.approx(0.5)
    assert results["methods"]["noise"]["mask_share"] == pytest.approx(0.5, abs=0.05)
    for name in ("viewmaker", "noise"):
        assert results["methods"][name]["distortion"]["mean"] == pytest.approx(0.1, abs=1e-3)
    assert results["clean"]["own"]["left"] > 0.9
    report = (out / "report.md").read_text()
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {f"{kind}-{s}.png" for kind in ("probability", "dropout") for s in ("own", "flat")} | {
        "views-left.png",
        "views-right.png",
        "mask.png",
    }
    assert all(f"]({name})" in report for name in pictures)
    assert "| own | left |" in report

    # Started again, it scores what is missing alone, to the same figures.
    (out / "cells" / "noise.safetensors").unlink()
    (out / "results.json").unlink()
    scored = []
    import viewaug.diagnosis

    monkeypatch.setattr(
        viewaug.diagnosis, "score", lambda *rest, name, **options: scored.append(name) or score(*rest, **options)
    )
    assert main(arguments) == 0
    assert scored == ["noise"]
    assert json.loads((out / "results.json").read_text()) == results

    with pytest.raises(SystemExit):
        main([*arguments, "--seed", "1"])
    assert "other files or settings" in capsys.readouterr().err


def test_one_label_and_no_mask(tmp_path):
    x, left, _ = files(tmp_path)
    np.savez(tmp_path / "data.npz", x=x.numpy(), left=left.numpy())
    assert main(command(tmp_path, "--count", "5")) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["inputs"] == 5
    assert results["mask_area"] is None
    assert "dropout" not in results["methods"]["noise"]["scorers"]["own"]
    assert not list((tmp_path / "out").glob("dropout*"))


def write(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return command(folder)


X, LABEL = np.full((4, 3, 8, 8), 0.5, dtype=np.float32), np.arange(4) % 2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: [*command(f), "--views", "1"], "--views"),
        (lambda f: [*command(f), "--data", str(f / "none.npz")], "there is no such file"),
        (lambda f: [*command(f), "--data", str(f / "own.pt2")], "own.pt2"),
        (lambda f: [*command(f), "--probe", str(f / "none.pt2")], "none.pt2"),
        (lambda f: [*command(f), "--probe", str(f / "data.npz")], "is not a probe"),
        (lambda f: [*command(f), "--probe", str(f / "own.pt2"), str(f / "own.pt2")], "of different names"),
        (lambda f: [*command(f), "--checkpoint", str(f / "none.safetensors")], "none.safetensors"),
        (lambda f: [*command(f), "--checkpoint", f"noise={f / 'viewmaker.safetensors'}"], "none of them `noise`"),
        (lambda f: [*command(f), "--compare", "a=nothing"], "MODULE:FUNCTION"),
        (lambda f: [*command(f), "--compare", "a=torch:nothing"], "MODULE:FUNCTION"),
        (lambda f: [*command(f), "--compare", "a=torch:sum"], "to return views"),
        (lambda f: write(f, left=LABEL), "`x`"),
        (lambda f: write(f, x=(255 * X).astype(np.uint8), left=LABEL), "`x`"),
        (lambda f: write(f, x=X), "at least one array of labels"),
        (lambda f: write(f, x=X[:0], left=LABEL[:0]), "to hold inputs, but its shape"),
        (lambda f: write(f, x=X, left=LABEL[:2]), "'left'"),
        (lambda f: write(f, x=X, left=LABEL / 2), "'left'"),
        (lambda f: write(f, x=X, left=-LABEL), "'left'"),
        (lambda f: write(f, x=X, up=LABEL), "scorer's tasks"),
        (lambda f: write(f, x=X, left=LABEL * 3), "below 2"),
        (lambda f: write(f, x=X, left=LABEL, mask=X), "`mask`"),
        (lambda f: write(f, x=X * 4, left=LABEL), "value range"),
        (lambda f: write(f, x=X * np.nan, left=LABEL), "finite"),
        (lambda f: write(f, x=X[:, :1], left=LABEL), "Expected `x` to have the shape"),
    ],
)
def test_errors(act, message, tmp_path, capsys):
    files(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(act(tmp_path))
    assert error.value.code in (1, 2)
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_mixtures_take_from_other_inputs():
    """Though what comes in are views of one input."""
    from viewaug.commands.diagnose import _views

    data = torch.arange(20.0).view(20, 1, 1, 1).expand(-1, 1, 8, 8) / 20
    viewmaker = viewaug.Viewmaker(1, generator="random", perturbation="mix", budget=None)
    view = _views(viewmaker, data)(data[3].expand(40, -1, -1, -1), torch.Generator().manual_seed(0))
    assert view.shape == (40, 1, 8, 8)
    assert (view != data[3]).flatten(1).any(1).sum() > 30
    assert len((view[view != data[3]] * 20).round().unique()) > 4


def test_without_room_it_says_so_and_goes_on(tmp_path, capsys, no_room):
    """At the first cell, and at the figures."""
    files(tmp_path)
    for size in (500, 5000):
        with no_room(size), pytest.raises(SystemExit):
            main(command(tmp_path))
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("viewaug diagnose: ")
        assert "File too large" in line
    main(command(tmp_path))
    assert capsys.readouterr().out.endswith("report.md\n")


def test_names_of_files_with_other_signs(tmp_path):
    """A file is a file, whatever signs are in its name."""
    from viewaug.commands.diagnose import _named

    file = tmp_path / "lr=0.1.safetensors"
    file.touch()
    assert _named("--checkpoint", [str(file)]) == {"lr=0.1": str(file)}
    assert _named("--checkpoint", [f"mine={file}", "other.safetensors"]) == {
        "mine": str(file),
        "other": "other.safetensors",
    }
