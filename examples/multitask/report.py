"""The report of a grid of multi-task experiments: tables beside the paper's, figures, and departures from it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewaug.examples.grid import read_json
from viewaug.examples.multitask.methods import METHODS, split
from viewaug.examples.multitask.overlays import OVERLAYS

from viewaug._files import replacing
from viewaug._markdown import markdown_table

# Feature Dropout, table 1: accuracy on CIFAR-10 and on the overlay.
PAPER = {
    ("none", "viewmaker"): (84.5, None),
    ("none", "expert"): (86.2, None),
    ("shapes", "viewmaker"): (79.8, 100.0),
    ("shapes", "expert"): (76.0, 100.0),
    ("digits", "viewmaker"): (69.3, 94.3),
    ("digits", "expert"): (58.8, 86.7),
    ("letters", "viewmaker"): (71.9, 96.9),
    ("letters", "expert"): (74.8, 94.1),
}
# What differs whatever the settings; `original` has the paper's network, head, loss, optimizers and missing clamp.
DEPARTURES = """\
- CIFAR-10 from an .npz file may be coded as JPEG; test digits are of the test split, where the paper's are of the
  training split; letters are in DejaVu Sans instead of Arial.
- Learned views come from this package's fast generator instead of the reference network, are kept in [0, 1], and learn
  by a reversed gradient in the encoder's step instead of in turns.
- The loss is NT-Xent with both views as anchors; its head has a hidden layer.
- Probes are logistic regressions by L-BFGS instead of 100 epochs of gradient descent."""


def report(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for each overlay, with the paper's figures beside ours."""
    parts = [
        "Linear probe accuracy in % on clean test images: mean ± half a 95% interval over seeds (Student's t), of "
        "pooled features and, where they were probed, of the feature map before it is pooled. The last two columns are "
        "the paper's, of one run each, at full scale and before pooling: compare their order only."
    ]
    for overlay in OVERLAYS:
        mine = [cell for cell in cells if cell["overlay"] == overlay]
        if not mine:
            continue
        prepool = [f"{name} prepool" for name in ("background", "overlay") if f"{name} prepool" in mine[0]]
        head = ["views", "seeds", "photo", overlay, "mean", *(f"{name}, map" for name in ("photo", overlay))]
        head = [*head[: 5 + len(prepool)], "loss", "budget", "CPU minutes"]
        rows = []
        for method in dict.fromkeys(cell["method"] for cell in mine):
            found = [cell for cell in mine if cell["method"] == method]
            both = [statistics.mean(tasks(cell)) for cell in found]
            minutes = statistics.mean(cell["cpu_seconds"] for cell in found) / 60
            row = [method, str(len(found)), interval([cell["background"] for cell in found])]
            row += [interval([cell["overlay_accuracy"] for cell in found]) if overlay != "none" else "", interval(both)]
            row += [interval([cell[name] for cell in found]) for name in prepool]
            row += [f"{statistics.mean(cell['loss'] for cell in found):.2f}"]
            row += [f"{statistics.mean(cell['budget'] for cell in found):.3f}" if "budget" in found[0] else ""]
            paper = PAPER.get((overlay, method), (None, None))
            row += [f"{minutes:.1f}", *("" if value is None else f"{value:.1f}" for value in paper)]
            rows.append(row)
        parts.append(markdown_table([*head, "paper: photo", f"paper: {overlay}"], rows))
    return "\n\n".join(parts)


def tasks(cell: Mapping[str, Any]) -> list[float]:
    """Return a cell's accuracy on each of its tasks."""
    return [cell[name] for name in ("background", "overlay_accuracy") if name in cell]


def interval(values: Sequence[float]) -> str:
    """Return the mean and half a 95% interval by Student's t.

    Examples:
        >>> interval([1.0, 2.0, 3.0])
        '2.0 ± 2.5'
    """
    mean = f"{statistics.mean(values):.1f}"
    if len(values) < 2:
        return mean
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.1f}"


def draw(cells: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the accuracy on both tasks while training, against CPU time, for each overlay."""
    from matplotlib.figure import Figure

    overlays = [name for name in OVERLAYS if name != "none" and any(cell["overlay"] == name for cell in cells)]
    figure = Figure(figsize=(7, 2.6 * max(1, len(overlays))), layout="constrained")
    axes = figure.subplots(max(1, len(overlays)), 2, squeeze=False, sharex=True)
    for line, overlay in zip(axes, overlays, strict=False):
        mine = [cell for cell in cells if cell["overlay"] == overlay]
        for k, method in enumerate(dict.fromkeys(cell["method"] for cell in mine)):
            for cell in (cell for cell in mine if cell["method"] == method):
                curve = [row for row in cell["curve"] if "background" in row]
                minutes = [row["seconds"] / 60 for row in curve] + [cell["cpu_seconds"] / 60]
                label = method if cell is next(c for c in mine if c["method"] == method) else None
                style = {"color": f"C{k}", "linewidth": 0.9, "marker": ".", "markersize": 3, "label": label}
                line[0].plot(minutes, [row["background"] for row in curve] + [cell["background"]], **style)
                line[1].plot(minutes, [row["overlay"] for row in curve] + [cell["overlay_accuracy"]], **style)
        line[0].set_ylabel("photo, %", fontsize=8)
        line[1].set_ylabel(f"{overlay}, %", fontsize=8)
        line[1].legend(fontsize=5)
    figure.supxlabel("CPU minutes of training", fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def departures(settings: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """Return a table of the settings that are not the paper's."""
    ours, paper = ({**given, **given["training"]} for given in (settings, paper))
    rows = [[name, str(paper[name]), str(ours[name])] for name in paper if name != "training"]
    return markdown_table(["setting", "paper", "here"], [row for row in rows if row[1] != row[2]])


def draw_budgets(cells: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """Draw the accuracy of a viewmaker against its budget, where there are several; return whether there are."""
    from matplotlib.figure import Figure

    swept: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for cell in cells:
        base, kind, budget = split(cell["method"])
        if base == "viewmaker" and not kind and budget != "steered":
            swept.setdefault(cell["overlay"], []).append((cell["budget"], cell))
    swept = {overlay: rows for overlay, rows in swept.items() if len({budget for budget, _ in rows}) > 1}
    if not swept:
        return False
    figure = Figure(figsize=(2.8 * len(swept), 2.8), layout="constrained")
    for axis, (overlay, rows) in zip(figure.subplots(1, len(swept), squeeze=False)[0], swept.items(), strict=True):
        steered = [c for c in cells if c["overlay"] == overlay and c["method"] == "viewmaker@steered"]
        for k, (name, task) in enumerate((("photo", "background"), (overlay, "overlay_accuracy"))):
            if task not in rows[0][1]:
                continue
            budgets = sorted({budget for budget, _ in rows})
            means = [statistics.mean(cell[task] for b, cell in rows if b == budget) for budget in budgets]
            axis.plot(budgets, means, color=f"C{k}", linewidth=0.9, label=name)
            axis.plot([b for b, _ in rows], [cell[task] for _, cell in rows], ".", color=f"C{k}", markersize=4)
            axis.plot([c["budget"] for c in steered], [c[task] for c in steered], "*", color=f"C{k}")
        axis.set(xscale="log", xlabel="budget", ylabel="accuracy, %")
        axis.legend(fontsize=6)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)
    return True


def read_cells(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the cells in a folder, by method and seed, and their settings.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted((out / "cells").glob("*.json"))
    if not files:
        raise FileNotFoundError(f"Expected results in {out / 'cells'}, but found none.")
    found = [read_json(file) for file in files]
    order = list(METHODS)
    cells = [file["cell"] for file in found]
    cells.sort(key=lambda cell: (order.index(split(cell["method"])[0]), cell["method"], cell["seed"]))
    return cells, found[0]["settings"]


def write_report(out: Path, paper: Mapping[str, Any]) -> Path:
    """Write ``report.md`` and its figures from the cells in a folder.

    Args:
        out: the folder.
        paper: settings to compare the cells' with.
    """
    cells, kept = read_cells(out)
    settings = "\n".join(f"- {name}: {value}" for name, value in kept.items())
    draw(cells, out / "curves.png")
    sweep = (
        "![Accuracy against budget](budgets.png)\n\n*Dots are runs with a fixed budget, stars runs with a controller, "
    )
    sweep = f"{sweep}at the budget where they ended.*\n\n" if draw_budgets(cells, out / "budgets.png") else ""
    views = "".join(
        f"![{title}, {overlay}]({name}-{overlay}.png)\n\n"
        for overlay in OVERLAYS
        for name, title in (("views", "Views"), ("destruction", "Probability of the correct label over views"))
        if (out / f"{name}-{overlay}.png").exists()
    )
    if views:
        views += (
            "*Views of each method and their amplified differences; below, histograms of the probability that a probe "
            "gives to the correct label: that on the encoder of `expert` for learned views, that of `viewmaker` for "
            "hand-made ones.*\n\n"
        )
    with replacing(out / "report.md") as temporary:
        temporary.write_text(
            f"# Multi-task images\n\n{report(cells)}\n\n![Accuracy while training](curves.png)\n\n"
            f"*Every line is a run. While training, probes are fitted to 2,000 images.*\n\n{sweep}{views}"
            "## Departures from the paper\n\n"
            f"{departures(kept, paper)}\n\n{DEPARTURES}\n\n## Settings\n\n{settings}\n",
            encoding="utf-8",
        )
    return out / "report.md"
