"""Figures of a comparison: views of each kind, accuracy against time, and against strength."""

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor

from viewaug import Viewmaker
from viewaug.comparison.cells import kind_of
from viewaug.comparison.views import REFERENCES, Kind, Method
from viewaug.plots import view_grid

if TYPE_CHECKING:
    from viewaug.comparison.result import Comparison

_DRAWN = 6  # samples


def accuracy_figure(comparison: "Comparison") -> Figure:
    """Draw the mean accuracy on validation against the time of pretraining, and against the strength of trials."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    of_time, of_strength = figure.subplots(1, 2)
    encoder = comparison.encoders[0]
    for place, name in enumerate(comparison.methods):
        style = {"color": f"C{place % 10}", "linestyle": "-" if place < 10 else "--", "label": name}
        runs = comparison.runs(encoder, name)
        curve = runs[0]["curve"] if runs else []
        if curve:
            of_time.plot([p["seconds"] for p in curve], [p["score"] for p in curve], marker=".", **style)
        trials = [
            (cell["strength"], statistics.mean(cell["validation"].values()))
            for cell in comparison.cells
            if cell["trial"] and (cell["encoder"], cell["method"]) == (encoder, name) and cell["validation"]
        ]
        if trials:
            of_strength.plot(*zip(*sorted(trials), strict=True), marker=".", **style)
    of_time.set(xlabel="seconds of pretraining", ylabel="accuracy on validation, %")
    if of_strength.lines:
        of_strength.set(xlabel="strength, budget or difficulty", xscale="log")
    else:
        of_strength.set_axis_off()
    handles, names = of_time.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=7)
    return figure


def views_figure(comparison: "Comparison") -> Figure:
    """Draw inputs, and a view of each kind, by the viewmakers of the first seed."""
    arrays, encoder = comparison.arrays, comparison.encoders[0]
    if arrays is None:
        raise ValueError("Expected a comparison that was just run, but this was read from a file.")
    x = arrays.take(arrays.where(0)[: 8 * _DRAWN])  # partners are of a batch
    views, names = [], []
    for name, method in comparison.methods.items():
        runs = comparison.runs(encoder, name)
        if method.maker not in ("none", *REFERENCES) and runs:
            viewmaker = comparison.viewmakers.get((encoder, name))
            views.append(drawn_view(method, kind_of(arrays), runs[0]["strength"], viewmaker, x)[:_DRAWN])
            names.append(name)
    if not views:
        views, names = [x[:_DRAWN]], ["none"]
    return view_grid(x[:_DRAWN], views, amplify=1.0, value_range=arrays.value_range, labels=names)


@torch.no_grad()
def drawn_view(method: Method, kind: Kind, strength: float | None, viewmaker: Viewmaker | None, x: Tensor) -> Tensor:
    """Return a view for a figure, always the same: by hand, then by a viewmaker, if there are such."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(method.views(kind, strength), viewmaker=viewmaker)(x)
