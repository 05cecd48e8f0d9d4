"""The report of a grid of multi-task experiments: tables beside the paper's, figures, and departures from it."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from viewaug.examples.multitask.cells import Cell, group_by, means, minutes, read_cell, read_cells, tasks_of
from viewaug.examples.multitask.experiment import Experiment
from viewaug.examples.multitask.figures import draw_budgets, draw_curves
from viewaug.examples.multitask.transfer import table

from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.comparison.grid import read_json
from viewaug.comparison.verdict import with_interval

# And what columns add to a task's name; either test or validation.
FEATURES = {"test": "", "validation": "", "prepool": ", map", "on_views": ", views in probe"}


def report(experiment: Experiment, cells: Sequence[Cell], *, validation: bool = False) -> str:
    """Return a table for each data set, with the paper's figures beside ours."""
    split = "held-out training" if validation else "test"
    parts = [
        f"Linear probe accuracy in % on clean {split} {experiment.name}: mean ± half a 95% interval over seeds "
        "(Student's t), of pooled features and, where they were probed, of the feature map before it is pooled. The "
        "last columns are the paper's, of one run each, at full scale and before pooling: compare their order only."
    ]
    for group, mine in group_by(cells, experiment.group, experiment.groups).items():
        tasks = tasks_of(experiment, mine[0])
        known = {task: title for task, title in tasks.items() if any(task in row for row in experiment.paper.values())}
        rows = []
        for method, found in group_by(mine, "method").items():
            paper = experiment.paper.get((group, method), {})
            row = {"views": method, **_columns(found, tasks)}
            row |= {f"paper: {title}": f"{paper[task]:.1f}" if task in paper else "" for task, title in known.items()}
            rows.append(row)
        parts += [f"## {group}", _table(rows)]
    return "\n\n".join(parts)


def comparison(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Return a table of the best learned views beside the best by hand, in the mean over tasks, for each data set.

    Methods take part that have three seeds, or as many as any other where none has three.
    """
    rows = []
    for group, mine in group_by(cells, experiment.group, experiment.groups).items():
        methods = list(group_by(mine, "method").values())
        enough = min(3, max(map(len, methods)))
        able = [found for found in methods if len(found) >= enough]
        able.sort(key=lambda found: statistics.mean(means(found)), reverse=True)
        best: dict[bool, list[Cell]] = {}
        for found in able:
            best.setdefault(experiment.parse(found[0]["method"])[0].learns, found)
        if len(best) < 2:
            continue
        by_seed = {
            kind: dict(zip((cell["seed"] for cell in found), means(found), strict=True)) for kind, found in best.items()
        }
        differences = [mean - by_seed[False][seed] for seed, mean in by_seed[True].items() if seed in by_seed[False]]
        rows.append(
            {
                "data": group,
                "learned": best[True][0]["method"],
                "mean": with_interval(list(by_seed[True].values())),
                "by hand": best[False][0]["method"],
                "its mean": with_interval(list(by_seed[False].values())),
                "difference by seed": with_interval(differences) if differences else "",
                "time, learned / by hand": f"{minutes(best[True]) / minutes(best[False]):.2f}",
            }
        )
    return _table(rows)


def papers(experiment: Experiment) -> str:
    """Return the paper's own figures: data set x views, the tasks divided by slashes."""
    views = list(dict.fromkeys(method for _, method in experiment.paper))
    groups = [group for group in experiment.groups if any(group == other for other, _ in experiment.paper)]
    rows = []
    for method in views:
        found = [experiment.paper.get((group, method), {}) for group in groups]
        rows.append([f"`{method}`", *(" / ".join(f"{value:.1f}" for value in row.values()) for row in found)])
    return markdown_table(["views", *groups], rows)


def trials(experiment: Experiment, out: Path) -> str:
    """Return a table of the runs with other settings that are kept in a folder, each with a note that says which."""
    files = sorted((out / "trials").glob("*.json"))
    cells = [{**read_cell(file), "note": read_json(file)["note"]} for file in files]
    rows = [
        {"data": group, "views": method, "what was different": note}
        | _columns(same, tasks_of(experiment, same[0]), ("test", "validation"))
        for group, mine in group_by(cells, experiment.group, experiment.groups).items()
        for note, alike in group_by(mine, "note").items()
        for method, same in group_by(alike, "method").items()
    ]
    return _table(rows, names=3)


def _columns(cells: Sequence[Cell], tasks: Mapping[str, str], features: Iterable[str] = FEATURES) -> dict[str, str]:
    """Return what a table says of runs that differ in their seeds, by the heads of its columns."""
    columns = {"seeds": str(len(cells))}
    for name in (name for name in features if name in cells[0]):
        columns |= {
            title + FEATURES[name]: with_interval([cell[name][task] for cell in cells]) for task, title in tasks.items()
        }
        if len(tasks) > 1:
            columns["mean" + FEATURES[name]] = with_interval([statistics.mean(cell[name].values()) for cell in cells])
    losses = [cell["loss"] for cell in cells if cell["loss"] is not None]  # of those that did not diverge
    columns["loss"] = f"{statistics.mean(losses):.2f}" if losses else ""
    budgets = [cell["reached"]["budget"] for cell in cells if cell["reached"].get("budget") is not None]
    columns["budget"] = f"{statistics.mean(budgets):.3f}" if budgets else ""
    return {**columns, "CPU minutes": f"{minutes(cells):.1f}"}


def _table(rows: Sequence[Mapping[str, str]], names: int = 1) -> str:
    """Return a table of rows by column, with a column of every head; nothing without rows."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    return markdown_table(head, [[row.get(name, "") for name in head] for row in rows], names) if rows else ""


def departures(settings: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """Return a table of the settings that are not the paper's."""
    ours, paper = ({**given, **given["training"]} for given in (settings, paper))
    names = [name for name in paper if name in ours and name != "training"]  # cells may be older than a setting
    rows = [[name, str(paper[name]), str(ours[name])] for name in names]
    return markdown_table(["setting", "paper", "here"], [row for row in rows if row[1] != row[2]])


def write_report(experiment: Experiment, out: Path, paper: Mapping[str, Any]) -> Path:
    """Write ``report.md`` and its figures from the cells in a folder.

    Args:
        experiment: what the cells are of.
        out: the folder.
        paper: settings to compare the cells' with.
    """
    cells, kept = read_cells(experiment, out)
    draw_curves(experiment, cells, out / "curves.png")
    parts = [f"# {experiment.title}", report(experiment, cells, validation=kept.get("validation", False))]
    if compared := comparison(experiment, cells):
        parts += [
            "## Learned views and views by hand",
            "The best of each in the mean over tasks, of those with three seeds; where there are none, with the most.",
            compared,
        ]
    if moved := table(cells):
        parts += ["## Transfer", "Of the frozen encoder to other data, beside the first paper's figures.", moved]
    parts += [
        "## While training",
        "![Accuracy while training](curves.png)",
        "*Every line is the mean of a method's runs, a cross their end. While training, probes are fitted to 2,000 "
        "inputs, and in the end to all.*",
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
