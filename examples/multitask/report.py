"""The report of a grid of multi-task experiments: tables beside the paper's, figures, and departures from it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewaug.examples.grid import read_json
from viewaug.examples.multitask.experiment import Experiment
from viewaug.examples.multitask.methods import parse, split

from viewaug._files import replacing
from viewaug._markdown import markdown_table

Cell = Mapping[str, Any]


def report(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return a table for each data set, with the paper's figures beside ours."""
    parts = [
        f"Linear probe accuracy in % on clean test {experiment.name}: mean ± half a 95% interval over seeds (Student's "
        "t), of pooled features and, where they were probed, of the feature map before it is pooled. The last columns "
        "are the paper's, of one run each, at full scale and before pooling: compare their order only."
    ]
    for group, mine in _by(cells, experiment.group, experiment.groups).items():
        tasks = _tasks(experiment, mine[0])
        maps = [task for task in tasks if f"{task} prepool" in mine[0]]
        several = len(tasks) > 1
        head = ["views", "seeds", *tasks.values(), *["mean"] * several, *(f"{tasks[task]}, map" for task in maps)]
        head += ["mean, map"] * (len(maps) > 1)
        known = [task for task in tasks if any(task in row for row in experiment.paper.values())]
        head += ["loss", "budget", "CPU minutes", *(f"paper: {tasks[task]}" for task in known)]
        rows = []
        for method, found in _by(mine, "method").items():
            row = [method, str(len(found))]
            row += [interval([cell[experiment.key(task)] for cell in found]) for task in tasks]
            row += [interval(means(experiment, found))] * several
            row += [interval([cell[f"{task} prepool"] for cell in found]) for task in maps]
            if len(maps) > 1:
                row += [interval([statistics.mean(cell[f"{task} prepool"] for task in maps) for cell in found])]
            row += [f"{statistics.mean(cell['loss'] for cell in found):.2f}"]
            row += [f"{statistics.mean(cell['budget'] for cell in found):.3f}" if "budget" in found[0] else ""]
            paper = experiment.paper.get((group, method), {})
            row += [f"{minutes(found):.1f}", *(f"{paper[task]:.1f}" if task in paper else "" for task in known)]
            rows.append(row)
        parts += [f"## {group}", markdown_table(head, rows)]
    return "\n\n".join(parts)


def comparison(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return a table of the best learned views beside the best by hand, in the mean over tasks, for each data set.

    Methods take part that have three seeds, or as many as any other where none has three.
    """
    rows = []
    for group, mine in _by(cells, experiment.group, experiment.groups).items():
        methods = list(_by(mine, "method").values())
        enough = min(3, max(map(len, methods)))
        able = [found for found in methods if len(found) >= enough]
        able.sort(key=lambda found: statistics.mean(means(experiment, found)))
        best = {parse(found[0]["method"], experiment.methods).learned: found for found in able}  # the last of a kind
        if len(best) < 2:
            continue
        by_seed = {
            kind: dict(zip((cell["seed"] for cell in found), means(experiment, found), strict=True))
            for kind, found in best.items()
        }
        differences = [mean - by_seed[False][seed] for seed, mean in by_seed[True].items() if seed in by_seed[False]]
        row = [group]
        for kind in (True, False):
            row += [best[kind][0]["method"], interval(list(by_seed[kind].values()))]
        row += [interval(differences) if differences else ""]
        rows.append([*row, f"{minutes(best[True]) / minutes(best[False]):.2f}"])
    head = [experiment.group, "learned", "mean", "by hand", "its mean", "difference by seed", "time, learned / by hand"]
    return markdown_table(head, rows) if rows else ""


def trials(experiment: Experiment, out: Path) -> str:
    """Return a table of the runs with other settings that are kept in a folder, each with a note that says which."""
    found = [read_json(file) for file in sorted((out / "trials").glob("*.json"))]
    cells = [{**file["cell"], "note": file["note"]} for file in found]
    head = [experiment.group, "views", "what was different", "seeds", *experiment.tasks.values(), "mean", "loss"]
    rows = []
    for group, mine in _by(cells, experiment.group, experiment.groups).items():
        for note, alike in _by(mine, "note").items():
            for method, same in _by(alike, "method").items():
                row = [group, method, note, str(len(same))]
                for task in experiment.tasks:
                    key = experiment.key(task)
                    row.append(interval([cell[key] for cell in same]) if key in same[0] else "")
                row += [interval(means(experiment, same)), f"{statistics.mean(cell['loss'] for cell in same):.2f}"]
                rows.append([*row, f"{minutes(same):.1f}"])
    return markdown_table([*head, "CPU minutes"], rows, names=3) if rows else ""


def means(experiment: Experiment, cells: Sequence[Cell]) -> list[float]:
    """Return each cell's mean accuracy over its tasks."""
    return [statistics.mean(cell[experiment.key(task)] for task in _tasks(experiment, cell)) for cell in cells]


def minutes(cells: Sequence[Cell]) -> float:
    """Return the mean CPU time of training, in minutes."""
    return statistics.mean(cell["cpu_seconds"] for cell in cells) / 60


def _tasks(experiment: Experiment, cell: Cell) -> dict[str, str]:
    """Return the tasks of a cell, and what to call them."""
    return {task: title for task, title in experiment.tasks.items() if experiment.key(task) in cell}


def _by(cells: Sequence[Cell], key: str, order: Sequence[str] = ()) -> dict[str, list[Cell]]:
    """Return cells by what they have under a key, in a given order or that of the cells."""
    values = order or list(dict.fromkeys(cell[key] for cell in cells))
    found = {value: [cell for cell in cells if cell[key] == value] for value in values}
    return {value: mine for value, mine in found.items() if mine}


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


def draw(experiment: Experiment, cells: Sequence[Cell], file: Path) -> None:
    """Draw the accuracy on every task while training, against CPU time, for each data set."""
    from matplotlib.figure import Figure

    groups = _by(cells, experiment.group, experiment.groups)
    methods = list(_by(cells, "method"))
    columns = max(len(_tasks(experiment, mine[0])) for mine in groups.values())
    figure = Figure(figsize=(3.5 * columns, 2.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), columns, squeeze=False, sharex=True)
    for line, (group, mine) in zip(axes, groups.items(), strict=True):
        tasks = _tasks(experiment, mine[0])
        for ax in line[len(tasks) :]:
            ax.set_visible(False)
        for method, found in _by(mine, "method").items():
            k = methods.index(method)
            style = {"color": f"C{k % 10}", "linestyle": "-" if k < 10 else ":", "linewidth": 0.9, "markersize": 4}
            for i, cell in enumerate(found):
                for ax, task in zip(line, tasks, strict=False):
                    curve = [row for row in cell["curve"] if task in row]
                    times = [row["seconds"] / 60 for row in curve]
                    ax.plot(times, [row[task] for row in curve], ".", label=None if i else method, **style)
                    ax.plot(cell["cpu_seconds"] / 60, cell[experiment.key(task)], "x", **style)
        for ax, title in zip(line, tasks.values(), strict=False):
            ax.set_ylabel(f"{group}: {title}, %", fontsize=8)
            ax.tick_params(labelsize=7)
        line[len(tasks) - 1].legend(fontsize=5)
    figure.supxlabel("CPU minutes of training", fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def departures(settings: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """Return a table of the settings that are not the paper's."""
    ours, paper = ({**given, **given["training"]} for given in (settings, paper))
    rows = [[name, str(paper[name]), str(ours[name])] for name in paper if name != "training"]
    return markdown_table(["setting", "paper", "here"], [row for row in rows if row[1] != row[2]])


def draw_budgets(experiment: Experiment, cells: Sequence[Cell], file: Path, *, steered: bool) -> bool:
    """Draw the accuracy of a viewmaker against its budget, where there are several; return whether there are.

    Args:
        experiment: what the cells are of.
        cells: the results.
        file: what to write.
        steered: whether a controller adapts budgets that a method's name does not give.
    """
    from matplotlib.figure import Figure

    swept = {
        group: [cell for cell in mine if _kind_of_budget(cell, steered) == "fixed"]
        for group, mine in _by(cells, experiment.group, experiment.groups).items()
    }
    swept = {group: mine for group, mine in swept.items() if len({cell["budget"] for cell in mine}) > 1}
    if not swept:
        return False
    figure = Figure(figsize=(2.8 * len(swept), 2.8), layout="constrained")
    for axis, (group, mine) in zip(figure.subplots(1, len(swept), squeeze=False)[0], swept.items(), strict=True):
        free = [c for c in cells if c[experiment.group] == group and _kind_of_budget(c, steered) == "steered"]
        for k, (task, title) in enumerate(_tasks(experiment, mine[0]).items()):
            key = experiment.key(task)
            budgets = sorted({cell["budget"] for cell in mine})
            mean = [statistics.mean(cell[key] for cell in mine if cell["budget"] == budget) for budget in budgets]
            axis.plot(budgets, mean, color=f"C{k}", linewidth=0.9, label=title)
            axis.plot([c["budget"] for c in mine], [c[key] for c in mine], ".", color=f"C{k}", markersize=4)
            axis.plot([c["budget"] for c in free], [c[key] for c in free], "*", color=f"C{k}")
        axis.set(xscale="log", xlabel="budget", ylabel="accuracy, %", title=group)
        axis.legend(fontsize=6)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)
    return True


def _kind_of_budget(cell: Cell, steered: bool) -> str:
    """Return whether a plain viewmaker's budget was fixed or steered; of other methods, nothing."""
    base, kind, budget = split(cell["method"])
    if base != "viewmaker" or kind:
        return ""
    return "steered" if budget == "steered" or (steered and not budget) else "fixed"


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


def write_report(experiment: Experiment, out: Path, paper: Mapping[str, Any]) -> Path:
    """Write ``report.md`` and its figures from the cells in a folder.

    Args:
        experiment: what the cells are of.
        out: the folder.
        paper: settings to compare the cells' with.
    """
    cells, kept = read_cells(experiment, out)
    draw(experiment, cells, out / "curves.png")
    parts = [f"# {experiment.title}", report(experiment, cells)]
    if compared := comparison(experiment, cells):
        parts += [
            "## Learned views and views by hand",
            "The best of each in the mean over tasks, of those with three seeds; where there are none, with the most.",
            compared,
        ]
    parts += [
        "## While training",
        "![Accuracy while training](curves.png)",
        "*Every line is a run, a cross its end. While training, probes are fitted to 2,000 inputs, and in the end to "
        "all.*",
    ]
    if draw_budgets(experiment, cells, out / "budgets.png", steered=kept["training"]["difficulty"] is not None):
        parts += [
            "## Budgets",
            "![Accuracy against budget](budgets.png)",
            "*Dots are runs with a fixed budget, stars runs with a controller, at the budget where they ended.*",
        ]
    if tried := trials(experiment, out):
        parts += ["## Trials", "Runs by which settings were chosen.", tried]
    figures = [
        f"![{title}, {group}]({name}-{group}.png)"
        for group in experiment.groups
        for name, title in (("views", "Views"), ("destruction", "Probability of the correct label over views"))
        if (out / f"{name}-{group}.png").exists()
    ]
    if figures:
        learned, by_hand = experiment.scorers
        parts += [
            "## Views",
            *figures,
            "*Views of each method and their amplified differences; below, histograms of the probability that a probe "
            f"gives to the correct label: that on the encoder of `{learned}` for learned views, that of `{by_hand}` "
            "for views by hand.*",
        ]
    parts += ["## Departures from the paper", departures(kept, paper), experiment.departures]
    parts += ["## Settings", "\n".join(f"- {name}: {value}" for name, value in kept.items())]
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return out / "report.md"
