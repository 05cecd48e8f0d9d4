"""The results of a grid of multi-task experiments: one cell of a data set, a method and a seed each."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewaug.examples.multitask.experiment import Experiment
from viewaug.examples.multitask.methods import split

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
    found = [read_json(file) for file in files]
    order = list(experiment.methods)
    cells = [file["cell"] for file in found]
    cells.sort(key=lambda cell: (order.index(split(cell["method"])[0]), cell["method"], cell["seed"]))
    return cells, found[0]["settings"]


def means(cells: Sequence[Cell], features: str = "accuracy") -> list[float]:
    """Return each cell's mean accuracy over its tasks; with ``"prepool"``, of features before they are pooled."""
    return [statistics.mean(cell[features].values()) for cell in cells]


def minutes(cells: Sequence[Cell]) -> float:
    """Return the mean CPU time of training, in minutes."""
    return statistics.mean(cell["cpu_seconds"] for cell in cells) / 60


def tasks_of(experiment: Experiment, cell: Cell) -> dict[str, str]:
    """Return the tasks of a cell, and what to call them."""
    return {task: title for task, title in experiment.tasks.items() if task in cell["accuracy"]}


def group_by(cells: Sequence[Cell], key: str, order: Sequence[str] = ()) -> dict[str, list[Cell]]:
    """Return cells by what they have under a key, in a given order or that of the cells."""
    values = order or list(dict.fromkeys(cell[key] for cell in cells))
    found = {value: [cell for cell in cells if cell[key] == value] for value in values}
    return {value: mine for value, mine in found.items() if mine}
