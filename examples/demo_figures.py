"""The pictures of the demo: views of each kind, data set by data set, and accuracies with intervals."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from viewaug import load
from viewaug.comparison import Comparison
from viewaug.comparison.arrays import TEST, read_arrays
from viewaug.comparison.cells import Cell, kind_of
from viewaug.comparison.figures import drawn_view
from viewaug.comparison.verdict import interval
from viewaug.comparison.views import parse
from viewaug.plots import draw_signal

Cells = Mapping[str, Sequence[Mapping[str, Any]]]
_SHOWN = 3  # samples
_BATCH = 48  # partners are of a batch


def accuracy_figure(titles: Mapping[str, str], known: Mapping[str, Comparison], found: Cells) -> Figure:
    """Draw the mean accuracy of each kind of views: a bar with its interval, and a dot for the run just made.

    Args:
        titles: of the data sets, by name.
        known: the results that the bars are of.
        found: the runs that the dots are of.
    """
    figure = Figure(figsize=(3.4 * len(titles), 3.2), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        encoder, best = known[name].encoders[0], known[name].best
        for place, cell in enumerate(found[name]):
            scores = [statistics.mean(run["test"].values()) for run in known[name].runs(encoder, cell["method"])]
            low, high = interval(scores)
            mean = statistics.mean(scores)
            color = "C1" if cell["method"] == best else "C0"
            axis.barh(place, mean, xerr=[[mean - low], [high - mean]], color=color, alpha=0.6, capsize=3)
            axis.plot(statistics.mean(cell["test"].values()), place, "ko", markersize=4)
        axis.set_yticks(range(len(found[name])), [cell["method"].replace(":", ":\n") for cell in found[name]])
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
    figure.supxlabel("mean accuracy of linear probes, %; dots: this run; orange: the best of all kinds", fontsize=8)
    return figure


def views_figure(titles: Mapping[str, str], found: Cells, out: Path) -> Figure:
    """Draw inputs, and a view of each kind by the viewmakers of the runs just made, of each data set.

    Args:
        titles: of the data sets, by name.
        found: the runs.
        out: folder of the demo.
    """
    rows = 1 + max(map(len, found.values()))
    figure = Figure(figsize=(1.1 * _SHOWN * len(titles) + 1.2 * len(titles), 1.1 * rows), layout="constrained")
    for part, (name, title) in zip(figure.subfigures(1, len(titles), squeeze=False)[0], titles.items(), strict=True):
        arrays = read_arrays(out / name / "arrays")
        places = arrays.where(TEST)
        x = arrays.take(places[torch.linspace(0, len(places) - 1, _BATCH).long()])  # neighbours are alike
        views = {"input": x} | {cell["method"]: _views(cell, x, kind_of(arrays), out / name) for cell in found[name]}
        part.suptitle(title, fontsize=9)
        for line, (label, batch) in zip(part.subplots(rows, _SHOWN, squeeze=False), views.items(), strict=False):
            for axis, signal, source in zip(line, batch, x, strict=False):
                draw_signal(axis, signal, source, arrays.value_range)
            line[0].set_ylabel(label.replace(":", ":\n").replace("+", "+\n"), fontsize=6)
    return figure


def _views(cell: Mapping[str, Any], x: torch.Tensor, kind: Any, out: Path) -> torch.Tensor:
    method = parse(cell["method"], kind)
    file = Cell(method, cell["strength"], cell["encoder"], cell["seed"], cell["steps"], final=True).name
    saved = out / "viewmakers" / f"{file}.safetensors"
    return drawn_view(method, kind, cell["strength"], load(saved) if saved.exists() else None, x)
