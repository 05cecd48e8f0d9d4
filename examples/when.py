"""Which views for which data: one table of all committed runs, a short one, and what learning adds to random twins.

python -m viewaug.examples.when
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from viewaug._markdown import markdown_table
from viewaug.comparison import Comparison
from viewaug.comparison.grid import read_json
from viewaug.comparison.verdict import interval, with_interval

RESULTS = Path(__file__).parent / "results"
ROWS = (
    "none",
    "noise",
    "mask",
    "channel-mask",
    "region",
    "region, drawn edge",
    "mixup",
    "crop",
    "hard",
    "expert",
    "learned",
    "learned:mask",
    "learned:mix",
    "learned:blend+additive",
    "expert/learned",
)
# What the grids call them; by the first name that there are cells of.
_GRID = {
    "none": ("none",),
    "noise": ("noise",),
    "region": ("viewmaker:random+mix",),
    "region, drawn edge": ("viewmaker:random+softmix",),
    "crop": ("crop",),
    "expert": ("expert", "waveform"),
    "learned": ("viewmaker@steered", "viewmaker"),
    "learned:blend+additive": ("viewmaker:blend+additive@steered",),
    "expert/learned": ("expert+viewmaker",),
}
Scores = dict[str, list[float]]  # the mean over tasks of each run, by the row's name


class Column(NamedTuple):
    """A data set, with an encoder."""

    title: str
    scores: Scores


def columns() -> list[Column]:
    """Return the scores of all data sets."""
    found = []
    for name, title in (("digits", "photo, digit"), ("overlays", "photo, digit, shape"), ("smartwatch", "smartwatch")):
        comparison = Comparison.read(RESULTS / "demo" / name / "results.json")
        for encoder in comparison.encoders:
            scores = {
                row: [statistics.mean(run["test"].values()) for run in comparison.runs(encoder, row)]
                for row in ROWS
                if row in comparison.methods
            }
            found.append(Column(f"{title}: {encoder}", scores))
    for overlay in ("digits", "shapes", "letters", "none"):
        title = "CIFAR-10" if overlay == "none" else f"CIFAR-10, {overlay}"
        found.append(Column(title, _grid("overlay", overlay, RESULTS / "families" / "digits", RESULTS / "image")))
    found.append(
        Column("speech over noise", _grid("mixture", "both", RESULTS / "families" / "speech", RESULTS / "audio"))
    )
    return found


def cost() -> dict[str, float]:
    """Return the price of a step with each kind of views of photographs, as a multiple of that without any."""
    prices = Comparison.read(RESULTS / "demo" / "overlays" / "results.json").plan.prices["residual"]
    return {row: prices[row] / prices["none"] for row in ROWS if row in prices}


def table(found: Sequence[Column] | None = None, prices: Mapping[str, float] | None = None) -> str:
    """Return the table: mean over tasks, in %, with a 95 % interval over seeds; the best of each column is bold.

    Args:
        found: the columns; None for those of the committed runs.
        prices: the cost of each row; None likewise.
    """
    found = columns() if found is None else found
    prices = cost() if prices is None else prices
    best = {column.title: max(column.scores, key=lambda row: statistics.mean(column.scores[row])) for column in found}
    rows = []
    for row in ROWS:
        if not any(row in column.scores for column in found):
            continue
        cells = []
        for column in found:
            scores = column.scores.get(row)
            text = with_interval(scores) if scores else ""
            cells.append(f"**{text}**" if best[column.title] == row else text)
        rows.append([f"`{row}`", f"{prices[row]:.1f}" if row in prices else "", *cells])
    return markdown_table(["views", "cost", *(column.title for column in found)], rows)


def brief() -> str:
    """Return the table of five data sets with one encoder each, and of the kinds of views that most of them have."""
    titles = {
        "photo, digit: residual": "photo, digit",
        "photo, digit, shape: residual": "photo, digit, shape",
        "smartwatch: residual": "smartwatch",
        "CIFAR-10, digits": "CIFAR-10, digits",
        "speech over noise": "speech, noise",
    }
    rows = ("none", "noise", "region", "mixup", "expert", "learned", "learned:blend+additive")
    found = {column.title: column.scores for column in columns()}
    chosen = [
        Column(title, {row: found[name][row] for row in rows if row in found[name]}) for name, title in titles.items()
    ]
    return table(chosen)


#: Learned views, and the random ones that they begin as.
TWINS = {"learned": "noise", "learned:mask": "mask", "learned:mix": "region"}


def twins() -> str:
    """Return what learning adds to random twins: differences paired by seed, in points, with 95 % intervals."""
    found = columns()
    rows = []
    for learned, twin in TWINS.items():
        row = [f"`{learned}` less `{twin}`"]
        for column in found[:5]:
            scores = [column.scores.get(name) for name in (learned, twin)]
            if scores[0] is None or scores[1] is None:
                row.append("")
                continue
            row.append(paired(scores[0], scores[1]))
        rows.append(row)
    return markdown_table(["views", *(column.title for column in found[:5])], rows)


def paired(scores: Sequence[float], others: Sequence[float]) -> str:
    """Return the mean difference of two kinds of views' scores, paired by seed, with its 95 % interval.

    Examples:
        >>> paired([1.0, 2.0, 4.0], [1.0, 1.0, 2.0])
        '1.0 (-1.5 to 3.5)'
    """
    difference = [mine - theirs for mine, theirs in zip(scores, others, strict=True)]
    low, high = interval(difference)
    return f"{statistics.mean(difference):z.1f} ({low:z.1f} to {high:z.1f})"


def _grid(group: str, name: str, *folders: Path) -> Scores:
    """Read the cells of one data set of a grid; the first folder that has a method counts."""
    by_method: dict[str, list[float]] = {}
    for folder in folders:
        here: dict[str, list[float]] = {}
        for file in sorted((folder / "cells").glob("*.json")):
            cell = read_json(file)["cell"]
            if cell[group] == name:
                here.setdefault(cell["method"], []).append(statistics.mean(cell["accuracy"].values()))
        by_method = here | by_method
    found = {}
    for row, methods in _GRID.items():
        method = next((method for method in methods if method in by_method), None)
        if method is not None:
            found[row] = by_method[method]
    return found


if __name__ == "__main__":
    print(table(), brief(), twins(), sep="\n\n")
