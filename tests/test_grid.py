"""Grids of experiments: each cell once, resumed, shared, and refused where it does not fit."""

import json
import os
import time
from pathlib import Path

import pytest
from forked import CONTEXT

from viewaug.comparison.grid import run_grid, tick


def cell(name: str, log: Path, seconds: float = 0.0) -> dict[str, str]:
    """Log who ran; this has to be importable by other processes."""
    with log.open("a") as file:
        file.write(f"{name} {os.getpid()}\n")
    time.sleep(seconds)
    tick()
    return {"name": name}


def fail(name: str, log: Path) -> dict[str, str]:
    if name == "b":
        for _ in range(300):  # until the other one is finished, in whatever process
            if (log.parent / "cells" / "a.json").exists():
                break
            time.sleep(0.1)
        raise RuntimeError("b is broken")
    return cell(name, log)


def runs(log: Path) -> list[str]:
    return sorted(line.split()[0] for line in log.read_text().splitlines())


def share(out: Path, log: Path) -> None:
    cells = {name: (name, log, 0.2) for name in "abcd"}
    run_grid(cell, cells, out, {}, ticks=1)


def test_runs_and_goes_on(tmp_path, capsys):
    log = tmp_path / "log"
    cells = {name: (name, log) for name in "abc"}
    assert run_grid(cell, cells, tmp_path, {"n": 1}) == {name: {"name": name} for name in "abc"}
    (tmp_path / "cells" / "b.json").unlink()
    assert list(run_grid(cell, cells, tmp_path, {"n": 1})) == list("abc")
    assert runs(log) == ["a", "b", "b", "c"]
    assert "2 of 3 cells" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["a.json", "b.json", "c.json"]
    with pytest.raises(FileExistsError, match="other settings"):
        run_grid(cell, cells, tmp_path, {"n": 2})
    (tmp_path / "cells" / "a.json").write_text('{"settings"')
    with pytest.raises(ValueError, match=r"a\.json cannot be read"):
        run_grid(cell, cells, tmp_path, {"n": 1})


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_loses_no_finished_cell(tmp_path, workers):
    cells = {name: (name, tmp_path / "log") for name in "ab"}
    with pytest.raises(RuntimeError, match="b is broken"):
        run_grid(fail, cells, tmp_path, {}, workers=workers)
    assert json.loads((tmp_path / "cells" / "a.json").read_text()) == {"settings": {}, "cell": {"name": "a"}}
    assert not (tmp_path / "cells" / "b.json").exists()


def test_two_processes_share_a_grid(tmp_path):
    """Two runs at once do every cell once, and both end only when all are there."""
    log = tmp_path / "log"
    others = [CONTEXT.Process(target=share, args=(tmp_path, log)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert runs(log) == list("abcd")


def test_workers(tmp_path):
    log = tmp_path / "log"
    found = run_grid(cell, {name: (name, log, 0.3) for name in "abcd"}, tmp_path, {}, workers=2, ticks=1)
    assert list(found) == list("abcd")
    assert runs(log) == list("abcd")
    assert str(os.getpid()) not in log.read_text()
