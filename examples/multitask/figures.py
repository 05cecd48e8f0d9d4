"""The figures of a grid of multi-task experiments: accuracy while training, and against the budget."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from viewaug.examples.multitask.cells import Cell, accuracy, group_by, means, minutes, tasks_of
from viewaug.examples.multitask.experiment import Experiment

from viewaug._files import replacing


def draw_curves(experiment: Experiment, cells: Sequence[Cell], file: Path) -> None:
    """Draw the accuracy on every task while training, against CPU time, for each data set: means over seeds."""
    groups = group_by(cells, experiment.group, experiment.groups)
    methods = list(group_by(cells, "method"))
    columns = max(len(tasks_of(experiment, mine[0])) for mine in groups.values())
    figure = Figure(figsize=(3.2 * columns + 1.8, 2.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), columns, squeeze=False, sharex=True)
    for line, (group, mine) in zip(axes, groups.items(), strict=True):
        tasks = tasks_of(experiment, mine[0])
        for axis in line[len(tasks) :]:
            axis.set_visible(False)
        for method, found in group_by(mine, "method").items():
            k = methods.index(method)
            line_style, cross = ("-", "x") if k < 10 else (":", "+")
            style = {"color": f"C{k % 10}", "linestyle": line_style, "linewidth": 0.9, "markersize": 4}
            for axis, task in zip(line, tasks, strict=False):
                curves = [[row for row in cell["curve"] if task in row] for cell in found]
                rows = list(zip(*curves, strict=True))
                times = [statistics.mean(row["seconds"] for row in same) / 60 for same in rows]
                axis.plot(
                    times, [statistics.mean(row[task] for row in same) for same in rows], ".", label=method, **style
                )
                axis.plot(minutes(found), statistics.mean(accuracy(cell)[task] for cell in found), cross, **style)
        for axis, title in zip(line, tasks.values(), strict=False):
            axis.set_ylabel(f"{group}: {title}, %", fontsize=8)
            axis.tick_params(labelsize=7)
    for column in axes.T:  # Matplotlib labels the last row's only, which may be hidden
        next(axis for axis in column[::-1] if axis.get_visible()).tick_params(labelbottom=True)
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines() if line.get_marker() == "."}
    figure.legend([lines[method] for method in methods], methods, loc="outside right upper", fontsize=7)
    figure.supxlabel("CPU minutes of training", fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def draw_budgets(experiment: Experiment, cells: Sequence[Cell], file: Path, *, steered: bool) -> bool:
    """Draw the accuracy of a viewmaker against its budget, where there are several; return whether there are.

    Args:
        experiment: what the cells are of.
        cells: the results.
        file: what to write.
        steered: whether a controller adapts budgets that a method's name does not give.
    """
    swept = {
        group: [cell for cell in mine if _kind_of_budget(cell, steered=steered) == "fixed"]
        for group, mine in group_by(cells, experiment.group, experiment.groups).items()
    }
    swept = {group: mine for group, mine in swept.items() if len(set(map(_budget, mine))) > 1}
    if not swept:
        return False
    figure = Figure(figsize=(2.8 * len(swept), 2.8), layout="constrained")
    for axis, (group, mine) in zip(figure.subplots(1, len(swept), squeeze=False)[0], swept.items(), strict=True):
        free = [c for c in cells if c[experiment.group] == group and _kind_of_budget(c, steered=steered) == "steered"]
        budgets = sorted(set(map(_budget, mine)))
        of_free = _scores(experiment, free)
        for k, (title, scores) in enumerate(_scores(experiment, mine).items()):
            at = {x: [y for y, cell in zip(scores, mine, strict=True) if _budget(cell) == x] for x in budgets}
            color = "k" if title == "mean" else f"C{k}"
            axis.plot(
                budgets, [statistics.mean(found) for found in at.values()], color=color, linewidth=0.9, label=title
            )
            axis.plot(list(map(_budget, mine)), scores, ".", color=color, markersize=4)
            axis.plot(list(map(_budget, free)), of_free.get(title, []), "*", color=color)
        axis.set(xscale="log", xlabel="budget", ylabel="accuracy, %", title=group)
        axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.legend(fontsize=6)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)
    return True


def _scores(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, list[float]]:
    """Return the accuracies of cells by what to call them, and their means."""
    tasks = tasks_of(experiment, cells[0]) if cells else {}
    scores = {title: [accuracy(cell)[task] for cell in cells] for task, title in tasks.items()}
    return scores | {"mean": means(cells)} if len(tasks) > 1 else scores


def _budget(cell: Cell) -> float:
    """Return the budget at the end."""
    budget: float = cell["reached"]["budget"]
    return budget


def _kind_of_budget(cell: Cell, *, steered: bool) -> str:
    """Return whether the budget of views that are plainly learned was fixed or steered; of other methods, nothing."""
    base, _, budget = cell["method"].partition("@")
    if base != "learned":
        return ""
    return "steered" if budget == "steered" or (steered and not budget) else "fixed"
