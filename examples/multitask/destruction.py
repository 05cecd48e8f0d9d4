"""What the views of each method look like, and which labels they destroy, for the cells of a grid."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from viewaug.examples.multitask.experiment import Experiment, cell_name, probe_file, viewmaker_file
from viewaug.examples.multitask.methods import Variant

import viewaug
from viewaug._files import replacing
from viewaug.plots import probability_histograms, view_grid
from viewaug.probes import correct_probability, load_probe


def draw_destruction(
    experiment: Experiment, group: str, settings: Any, out: Path, *, inputs: int = 100, views: int = 10
) -> None:
    """Draw ``views-GROUP.png`` and ``destruction-GROUP.png`` of the methods of a seed, the first with both scorers.

    The probability of the correct label is, as in the paper, that of another method's probe, whose encoder has not
    adapted to the views: one by hand for learned views, a learned one for views by hand.

    Nothing is drawn where cells came without their viewmakers, whose figures they may have come with.

    Args:
        experiment: what the grid is of.
        group: the data set.
        settings: of the experiment.
        out: the folder of the grid.
        inputs: how many test inputs to make views of.
        views: how many to make of each.
    """
    torch.manual_seed(0)
    seed = _first_seed(experiment, group, out)
    makers = {}
    for name in experiment.drawn:
        if make := _maker(experiment, group, name, seed, settings, out):
            makers[name] = lambda x, make=make: experiment.as_seen(group, settings, make(x))
        elif (out / "cells" / f"{cell_name(group, name, seed)}.json").exists():
            return
    data = experiment.data(group, Variant(), settings, 0, train=False)
    batch = data.__getitems__(range(min(inputs, len(data))))
    x = batch["views"][0]
    labels = {task: batch[task] for task in experiment.tasks if task in batch and (batch[task] >= 0).any()}
    figure = view_grid(
        experiment.as_seen(group, settings, x[:4]),
        [make(x[:4]) for make in makers.values()],
        amplify=3,
        labels=list(makers),
        value_range=experiment.value_range,
    )
    with replacing(out / f"views-{group}.png") as temporary:
        figure.savefig(temporary, dpi=80)
    files = [probe_file(out, cell_name(group, name, seed)) for name in experiment.scorers]
    if not all(file.exists() for file in files):
        return
    of_learned, of_handmade = (load_probe(file, trust=True) for file in files)  # written by the grid
    found: dict[str, dict[str, Tensor]] = {}
    for name, make in makers.items():
        scorer = of_learned if experiment.parse(name)[0].learns else of_handmade
        any_label = {task: label.clamp(min=0) for task, label in labels.items()}
        rounds = [correct_probability(scorer, make(x), any_label) for _ in range(views)]
        found[name] = {
            experiment.tasks[task]: torch.stack([one[task][label >= 0] for one in rounds])
            for task, label in labels.items()
        }
    with replacing(out / f"destruction-{group}.png") as temporary:
        probability_histograms(found).savefig(temporary, dpi=110)


def _first_seed(experiment: Experiment, group: str, out: Path) -> int:
    """Return the first seed with both scorers' probes, or else 0."""
    seeds = [
        {int(file.stem.rpartition("-")[2]) for file in (out / "probes").glob(f"{group}-{name}-*.pt2")}
        for name in experiment.scorers
    ]
    return min(set.intersection(*seeds), default=0)


def _maker(
    experiment: Experiment, group: str, name: str, seed: int, settings: Any, out: Path
) -> Callable[[Tensor], Tensor] | None:
    views = experiment.views(group, *experiment.parse(name), settings)
    if views.viewmaker is None:
        return views
    file = viewmaker_file(out, cell_name(group, name, seed))
    if not file.exists():
        return None
    return replace(views, viewmaker=viewaug.load(file).requires_grad_(False))
