"""The results of a grid of multi-task experiments: one cell of a data set, a method and a seed each."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewaug.examples.multitask.experiment import Experiment
from viewaug.examples.multitask.methods import modern

from viewaug.comparison.grid import read_json

Cell = Mapping[str, Any]


def read_cells(experiment: Experiment, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the cells in a folder, by method and seed, and their settings.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted((out / "cells").glob("*.json"))
    if not files:
        raise FileNotFoundError(f"Expected results in {out / 'cells'}, but found none.")
    order = {name: k for k, name in enumerate(experiment.methods)}

    def place(cell: Cell) -> tuple[int, str, int]:
        return order.get(re.split("[:@]", cell["method"])[0], len(order)), cell["method"], cell["seed"]

    return sorted(map(read_cell, files), key=place), read_json(files[0])["settings"]


def cell_names(experiment: Experiment, out: Path) -> dict[tuple[Any, ...], str]:
    """Return the names of the files in a folder by data set, method and seed; those of older cells are former names."""
    cells = {file.stem: read_cell(file) for file in (out / "cells").glob("*.json")}
    return {tuple(map(cell.get, (experiment.group, "method", "seed"))): name for name, cell in cells.items()}


def read_cell(file: Path) -> dict[str, Any]:
    """Return the cell in a file, in today's terms if it is an older one."""
    found = read_json(file)
    cell: dict[str, Any] = found["cell"]
    if "accuracy" in cell:
        cell["method"] = modern(cell["method"])
        cell["reached"] = {name: cell.pop(name) for name in ("budget", "strength") if name in cell}
        cell["seconds"] = cell.pop("cpu_seconds")
        cell["validation" if found["settings"].get("validation") else "test"] = cell.pop("accuracy")
    return cell


def accuracy(cell: Cell) -> dict[str, float]:
    """Return the accuracy by task: of the test, or where settings are chosen, in validation."""
    found: dict[str, float] = cell["test"] if "test" in cell else cell["validation"]
    return found


def means(cells: Sequence[Cell]) -> list[float]:
    """Return each cell's mean accuracy over its tasks."""
    return [statistics.mean(accuracy(cell).values()) for cell in cells]


def minutes(cells: Sequence[Cell]) -> float:
    """Return the mean CPU time of training, in minutes."""
    return statistics.mean(cell["seconds"] for cell in cells) / 60


def tasks_of(experiment: Experiment, cell: Cell) -> dict[str, str]:
    """Return the tasks of a cell, and what to call them."""
    return {task: title for task, title in experiment.tasks.items() if task in accuracy(cell)}


def group_by(cells: Sequence[Cell], key: str, order: Sequence[str] = ()) -> dict[str, list[Cell]]:
    """Return cells by what they have under a key, in a given order or that of the cells."""
    values = order or list(dict.fromkeys(cell[key] for cell in cells))
    found = {value: [cell for cell in cells if cell[key] == value] for value in values}
    return {value: mine for value, mine in found.items() if mine}
