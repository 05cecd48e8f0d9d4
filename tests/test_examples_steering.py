"""The example of steering: a short run, which is resumed, and its table."""

import pytest
from viewaug.examples import steering

from viewaug.comparison.grid import read_json

CELLS = (
    ("simclr", "spared"),
    ("simclr", "targeted"),
    ("vicreg", "random"),
    ("lejepa", "own loss"),
)
SHORT = ["--seeds", "1", "--steps", "2", "--scorer-steps", "12"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"TRAIN": 160, "TEST": 40, "BATCH": 8, "CELLS": CELLS}.items():
        monkeypatch.setattr(steering, name, value)
    steering.data.cache_clear()
    yield
    steering.data.cache_clear()


def test_short_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path), *SHORT]
    monkeypatch.setattr(steering, "CELLS", CELLS[:2])
    steering.main(out)
    first = read_json(tmp_path / "results.json")
    monkeypatch.setattr(steering, "CELLS", CELLS)
    monkeypatch.setattr(steering, "batches", _once_each(steering.batches))
    steering.main(out)
    results = read_json(tmp_path / "results.json")
    assert results["cells"][:2] == first["cells"]
    assert results["clean"] == first["clean"]  # the scorers are those of before
    assert [tuple(run["cell"]) for run in results["cells"]] == list(CELLS)
    for run in results["cells"]:
        assert (run["difficulty"] is None) == (run["cell"][0] != "simclr")
    table = steering.table(results)
    assert capsys.readouterr().out.endswith(table + "\n")
    assert len(table.splitlines()) == 2 + len(CELLS)
    with pytest.raises(SystemExit):
        steering.main([*out, "--steps", "3"])
    assert "argument --out" in capsys.readouterr().err


def _once_each(batches):
    calls = []

    def counted(*args):
        calls.append(args)
        assert len(calls) <= 2, "something is trained again"
        return batches(*args)

    return counted
