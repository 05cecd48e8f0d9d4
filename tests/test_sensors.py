"""Real sensors: a smartwatch's readings, PAMAP2's files, splits that do not leak, and the command."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from viewaug.examples import multitask_sensors, pamap2
from viewaug.examples.smartwatch import TEST, TRAINING, VALIDATION, WINDOW, Recording, recordings, smartwatch


def made_up(length: int = 1000) -> list[Recording]:
    """Of each subject a recording whose readings are the time, from a beginning of its own."""
    time = np.arange(length, dtype=np.float32)[:, None].repeat(6, 1)
    return [Recording(time + 10_000 * subject, subject % 3, subject) for subject in range(1, 11)]


def test_recordings_are_all_there():
    found = recordings()
    assert len(found) == 140
    assert {(r.exercise, r.subject) for r in found} == {(e, s) for e in range(7) for s in range(1, 11)}
    assert all(r.readings.shape[1] == 6 and r.readings.dtype == np.float32 for r in found)
    assert sum(len(r.readings) for r in found) == 244_102


def npy(content: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + content


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", [npy(pickle.dumps(np.array(Evil(), dtype=object))), npy(b"no"), b"no", npy(b"")])
def test_nothing_but_arrays_is_unpickled(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watch.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"watch\.npy cannot be read"):
        recordings(tmp_path / "watch.npy")
    assert not (tmp_path / "pwned").exists()


def test_seglearn_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="viewaug\\[examples\\]"):
        recordings()


def test_windows_do_not_leak():
    """Time is told by the readings: no reading lies in two parts, and no subject tells the exercise in two."""
    data = smartwatch(made_up())
    assert data["x"].shape[1:] == (6, WINDOW)
    train = data["split"] == "train"
    assert data["x"][train].mean((0, 2)) == pytest.approx(0, abs=1e-3)
    assert data["x"][train].std((0, 2)) == pytest.approx(1, rel=1e-3)
    seen = {}
    for part in ("train", "validation", "test"):
        mine = data["x"][data["split"] == part][:, 0].astype(np.float64)
        seen[part] = set(np.round(mine, 5).flatten().tolist())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert set(data["subject"][train]) == set(TRAINING)
    assert (data["exercise"][train] >= 0).all()
    for part, subjects in (("validation", VALIDATION), ("test", TEST)):
        mine = data["split"] == part
        known = data["exercise"][mine] >= 0
        assert (known == (data["subject"][mine] == -1)).all()  # what tells of one label does not of the other
        assert known.sum() == len(subjects) * ((1000 - WINDOW) // (WINDOW // 2) + 1)


def test_bad_recordings():
    short = made_up(300)
    with pytest.raises(ValueError, match="recording 0 has only 60 for validation"):
        smartwatch(short)
    broken = made_up()
    broken[3].readings[5, 2] = np.nan
    with pytest.raises(ValueError, match="number 3 is not"):
        smartwatch(broken)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """PAMAP2 in miniature: a rhythm for each of two activities, with gaps, and a time between them."""
    monkeypatch.setattr(pamap2, "WINDOW", 200)
    monkeypatch.setattr(pamap2, "STEP", 100)
    rng = np.random.default_rng(0)
    (tmp_path / "Protocol").mkdir()
    for subject in pamap2.SUBJECTS:
        activity = np.repeat([1, 0, 24], [500, 50, 400])
        time = np.arange(950) / 100
        readings = np.sin(2 * np.pi * (1 + 9 * (activity == 24))[:, None] * time[:, None]) + rng.normal(size=(950, 52))
        readings[:, 0] = np.where(np.arange(950) % 11 == 0, 80 + readings[:, 0], np.nan)  # of the heart, now and then
        rows = np.column_stack([time, activity, readings])
        np.savetxt(tmp_path / "Protocol" / f"subject{subject}.dat", rows, fmt="%.4f")
    return tmp_path


def test_pamap2(folder):
    data = pamap2.pamap2(folder)
    assert data["x"].shape[1:] == (52, 32, 7)
    assert data["x"].isfinite().all()
    train = torch.from_numpy(data["split"] == "train")
    assert data["x"][train].float().mean((0, 2, 3)).abs().max() < 0.01
    for part, subjects in (("train", 7), ("validation", 1), ("test", 1)):
        assert (data["split"] == part).sum() == subjects * 7
    assert np.unique(data["activity"], return_counts=True)[1].tolist() == [9 * 4, 9 * 3]
    again = pamap2.pamap2(folder / "Protocol")
    assert torch.equal(again["x"], data["x"])


def test_bad_pamap2(folder):
    file = folder / "Protocol" / "subject106.dat"
    rows = np.loadtxt(file)
    for change, message in (
        (lambda rows: rows[:, :40], "Expected 54 columns"),
        (lambda rows: rows[:150], "no 200 readings of one activity"),
        (lambda rows: np.where(np.arange(54) == 7, np.nan, rows), "column 7"),
    ):
        np.savetxt(file, change(rows))
        with pytest.raises(ValueError, match=message):
            pamap2.pamap2(folder)
    file.write_text("a b\n")
    with pytest.raises(ValueError, match=r"subject106\.dat cannot be read"):
        pamap2.pamap2(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"subject106\.dat"):
        pamap2.pamap2(folder)


def test_command(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    multitask_sensors.main(["--preset", "quick", *out])
    printed = capsys.readouterr().out
    assert "| views | strength | exercise | subject | mean |" in printed
    multitask_sensors.main(["report", *out])
    assert capsys.readouterr().out.split("\n\n")[0] in printed
    with pytest.raises(SystemExit):
        multitask_sensors.main(["--preset", "paper", "--data", "nowhere", *out])
    assert "argument --data: Expected a subject of PAMAP2 at nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        multitask_sensors.main(["report", "--out", str(tmp_path / "none")])
    assert "argument --out" in capsys.readouterr().err


@pytest.mark.long
def test_paper_preset_in_miniature(folder, tmp_path, capsys):
    options = [
        "--steps",
        "2",
        "--seeds",
        "1",
        "--trials",
        "1",
        "--batch",
        "16",
        "--methods",
        "none",
        "learned:spectral",
    ]
    out = tmp_path / "out"
    multitask_sensors.main(["--preset", "paper", "--data", str(folder), "--out", str(out), "--workers", "1", *options])
    assert "resnet18" in (out / "report.md").read_text()
    assert "| learned:spectral |" in capsys.readouterr().out
