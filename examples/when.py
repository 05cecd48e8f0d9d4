"""Which views for which data: one table of all committed runs, a short one, and what learning and choosing are worth.

python -m viewaug.examples.when
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from viewaug.examples.multitask.cells import means, read_cell

from viewaug._markdown import markdown_table
from viewaug.comparison import Comparison
from viewaug.comparison.grid import read_json
from viewaug.comparison.verdict import interval, with_interval
from viewaug.comparison.views import REFERENCES

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
# What the grids call them, if not the same; by the first name that there are cells of.
_GRID = {
    "region": ("random:mix",),
    "region, drawn edge": ("random:softmix",),
    "expert": ("waveform", "expert"),
    "learned": ("learned@steered", "learned"),
    "learned:blend+additive": ("learned:blend+additive@steered",),
}
Scores = dict[str, list[float]]  # the mean over tasks of each run, by the row's name


class Column(NamedTuple):
    """A data set, with an encoder."""

    title: str
    scores: Scores


def columns() -> list[Column]:
    """Return the scores of all data sets."""
    found = []
    for comparison, encoder, title in _compared(COMPARED):
        scores = {
            row: [statistics.mean(run["test"].values()) for run in comparison.runs(encoder, row)]
            for row in ROWS
            if row in comparison.methods
        }
        found.append(Column(title, scores))
    for overlay in ("digits", "shapes", "letters", "none"):
        title = "CIFAR-10" if overlay == "none" else f"CIFAR-10, {overlay}"
        found.append(Column(title, _grid("overlay", overlay, RESULTS / "families" / "digits", RESULTS / "image")))
    found.append(
        Column("speech over noise", _grid("mixture", "both", RESULTS / "families" / "speech", RESULTS / "audio"))
    )
    return found


#: Comparisons that are kept; the last two are of data that no setting was chosen on.
COMPARED = {
    "photo, digit": "demo/digits/results.json",
    "photo, digit, shape": "demo/overlays/results.json",
    "smartwatch": "demo/smartwatch/results.json",
}
FURTHER = {"vowels": "further/vowels.json", "MNIST": "further/mnist.json"}


def _compared(files: Mapping[str, str]) -> list[tuple[Comparison, str, str]]:
    """Return comparisons, each with an encoder and a title."""
    found = []
    for title, file in files.items():
        comparison = Comparison.read(RESULTS / file)
        found += [(comparison, encoder, f"{title}: {encoder}") for encoder in comparison.encoders]
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


#: Learned views, and what they begin as or are made on top of.
TWINS = {"learned": "noise", "learned:mask": "mask", "learned:mix": "region", "expert/learned": "expert"}


def twins() -> str:
    """Return what learning adds to random twins and to views by hand: points, paired by seed, with 95 % intervals."""
    found = [column for column in columns() if any(_both(column, *pair) for pair in TWINS.items())]
    rows = []
    for learned, twin in TWINS.items():
        row = [f"`{learned}` less `{twin}`"]
        for column in found:
            scores = _both(column, learned, twin)
            row.append(paired(*scores) if scores else "")
        rows.append(row)
    return markdown_table(["views", *(column.title for column in found)], rows)


def _both(column: Column, *names: str) -> list[list[float]]:
    """Return the scores of two kinds of views by seed, if there are five or more of both."""
    scores = [column.scores.get(name, []) for name in names]
    both = min(map(len, scores))
    return [each[:both] for each in scores] if both >= 5 else []


def regrets() -> str:
    """Return how many points are lost on each data set to its best views, by a rule for all and by a comparison.

    The rules are to take always the same, and to compare and to take what is best on validation: of five runs of each
    kind, and of one, whose mean and worst case over the five are shown. All are judged by mean test scores of five.
    """
    losses: dict[str, list[float | None]] = {}
    columns = _compared(COMPARED | FURTHER)
    for comparison, encoder, _ in columns:
        runs = {name: comparison.runs(encoder, name) for name in comparison.methods if name not in REFERENCES}
        test, validation = (
            {name: [statistics.mean(run[part].values()) for run in mine] for name, mine in runs.items()}
            for part in ("test", "validation")
        )
        score = {name: statistics.mean(each) for name, each in test.items()}
        lost = {name: max(score.values()) - mine for name, mine in score.items()}
        seeds = range(min(map(len, validation.values())))
        single = [lost[max(lost, key=lambda name: validation[name][seed])] for seed in seeds]
        five = lost[max(lost, key=lambda name: statistics.mean(validation[name]))]
        chosen = {"compared, 5 runs": five, "compared, 1 run": statistics.mean(single), "its worst": max(single)}
        for name in (*ROWS, *chosen):
            losses.setdefault(name, []).append((lost | chosen).get(name))
    rows = []
    for name, each in losses.items():
        known = [value for value in each if value is not None]
        if len(known) == len(columns):
            title = f"always `{name}`" if name in ROWS else name
            rows.append([title, *(f"{value:.1f}" for value in known), f"**{max(known):.1f}**"])
    return markdown_table(["views", *(title for _, _, title in columns), "at worst"], rows)


def screened() -> str:
    """Return the ideas for one default that were tried once, on validation, those that lose least at worst first."""
    runs = read_json(RESULTS / "families" / "screen.json")["cells"]
    titles = list(dict.fromkeys(run["column"] for run in runs))
    scores: dict[str, dict[str, float]] = {}
    for run in runs:
        scores.setdefault(run["views"], {})[run["column"]] = statistics.mean(run["validation"].values())
    best = {title: max(each.get(title, 0.0) for each in scores.values()) for title in titles}
    rows = []
    for views, each in scores.items():
        lost = max(best[title] - score for title, score in each.items())
        rows.append(
            (lost, [views, *(f"{each[title]:.1f}" if title in each else "" for title in titles), f"{lost:.1f}"])
        )
    return markdown_table(["views", *titles, "behind the best, at worst"], [row for _, row in sorted(rows)])


def paired(scores: Sequence[float], others: Sequence[float]) -> str:
    """Return the mean difference of two kinds of views' scores, paired by seed, with its 95 % interval.

    Examples:
        >>> paired([1.0, 2.0, 4.0], [1.0, 1.0, 2.0])
        '1.0 (-1.5 to 3.5)'
    """
    difference = [mine - theirs for mine, theirs in zip(scores, others, strict=True)]
    low, high = interval(difference)
    return f"{statistics.mean(difference):z.1f} ({low:z.1f} to {high:z.1f})"


def even() -> str:
    """Return how the recipe that was the most even when screened does, random and learned, beside the best views."""
    cells = read_json(RESULTS / "families" / "even.json")["cells"]
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    rows = []
    for comparison, encoder, title in _compared(COMPARED):
        best = comparison.verdicts[encoder].best or ""
        scores = [statistics.mean(run["test"].values()) for run in comparison.runs(encoder, best)]
        row = [title, f"`{best}`, {with_interval(scores)}"]
        for method in methods:
            runs = {
                cell["seed"]: statistics.mean(cell["test"].values())
                for cell in cells
                if (cell["data"], cell["encoder"], cell["method"]) == (title.partition(":")[0], encoder, method)
            }
            mine = [runs[seed] for seed in sorted(runs)]
            row.append(f"{with_interval(mine)}, behind by {paired(scores, mine)}")
        rows.append(row)
    return markdown_table(["data, encoder", "best on validation", *(f"`{method}`" for method in methods)], rows)


def _grid(group: str, name: str, *folders: Path) -> Scores:
    """Read the cells of one data set of a grid; the first folder that has a method counts."""
    by_method: dict[str, list[float]] = {}
    for folder in folders:
        here: dict[str, list[float]] = {}
        for file in sorted((folder / "cells").glob("*.json")):
            cell = read_cell(file)
            if cell[group] == name:
                here.setdefault(cell["method"], []).extend(means([cell]))
        by_method = here | by_method
    known = {row: [by_method[method] for method in _GRID.get(row, (row,)) if method in by_method] for row in ROWS}
    return {row: scores[0] for row, scores in known.items() if scores}


if __name__ == "__main__":
    print(table(), brief(), twins(), regrets(), sep="\n\n")
