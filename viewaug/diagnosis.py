"""Score many views of many inputs, and sum up which labels they destroy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from viewaug._noise import generator_at
from viewaug.budget import ValueRange
from viewaug.metrics import Distortion, FeatureDropout, LabelDestruction, mask_share
from viewaug.probes import Scorer, correct_probability

Views = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Data:
    """Inputs that carry several labels each.

    Shape:
        - x: ``(N, C, *spatial)``.
        - labels: for each task's name ``(N,)``, integers from 0.
        - mask: ``(N, 1, *spatial)`` in [0, 1], where an overlay is, or None.
    """

    x: Tensor
    labels: Mapping[str, Tensor]
    mask: Tensor | None = None

    @property
    def chance(self) -> dict[str, float]:
        """The chance of guessing each label among as many as there are."""
        return {task: 1 / (int(label.max()) + 1) for task, label in self.labels.items()}


@dataclass(frozen=True)
class Scores:
    """What scorers make of one method's views.

    Shape:
        - probability: of the correct label, for each scorer's and each task's name, ``(N, V)``.
        - mask_share: the share of each view's change on the mask, ``(N, V)``, or None.
        - distortion: the figures of :class:`viewaug.metrics.Distortion`.
    """

    probability: dict[str, dict[str, Tensor]]
    mask_share: Tensor | None
    distortion: dict[str, Any]


def views_of(views: Views, x: Tensor, index: int, count: int, seed: int) -> Tensor:
    """Return views of one input; they depend on the seed and its index alone."""
    generator = generator_at(seed, 0, index, 0, x.device)
    return views(x[index].expand(count, *x.shape[1:]), generator).detach()


def score(
    views: Views,
    scorers: Mapping[str, Scorer],
    data: Data,
    count: int,
    *,
    seed: int = 0,
    value_range: ValueRange = (0.0, 1.0),
    name: str | None = None,
) -> Scores:
    """Score `count` views of each input.

    Args:
        views: makes views of a batch, from a generator.
        scorers: by name, as :func:`viewaug.probes.correct_probability` takes them.
        data: the inputs.
        count: how many views of each.
        seed: of the views.
        value_range: of the views.
        name: of the progress bar; None for none.

    Examples:
        >>> data = Data(torch.rand(3, 1, 4), {"sign": torch.tensor([1, 0, 1])})
        >>> scorer = lambda x: {"sign": torch.cat([-x.mean(2), x.mean(2)], 1)}
        >>> noise = lambda x, generator: x + torch.randn(x.shape, generator=generator)
        >>> scores = score(noise, {"mean": scorer}, data, count=5, value_range=None)
        >>> scores.probability["mean"]["sign"].shape
        torch.Size([3, 5])
    """
    found: dict[str, dict[str, list[Tensor]]] = {s: {task: [] for task in data.labels} for s in scorers}
    shares = []
    distortion = Distortion(value_range=value_range)
    for i in trange(len(data.x), desc=name, unit="input", disable=name is None):
        x = data.x[i].expand(count, *data.x.shape[1:])
        v = views_of(views, data.x, i, count, seed)
        distortion.update(x, v)
        if data.mask is not None:
            shares.append(mask_share(x, v, data.mask[i].expand(count, *data.mask.shape[1:])))
        labels = {task: label[i].expand(count) for task, label in data.labels.items()}
        for scorer, lists in found.items():
            for task, p in correct_probability(scorers[scorer], v, labels).items():
                lists[task].append(p)
    probability = {s: {task: torch.stack(p) for task, p in lists.items()} for s, lists in found.items()}
    figures = {key: value.tolist() for key, value in distortion.compute().items()}
    return Scores(probability, torch.stack(shares) if shares else None, figures)


def summarise(scores: Scores, chance: Mapping[str, float]) -> dict[str, Any]:
    """Sum up what views destroy, for each scorer: plain numbers, such as JSON can hold.

    Args:
        scores: of one method.
        chance: for each task's name the probability below which its label counts as destroyed.
    """
    summary = {}
    for scorer, found in scores.probability.items():
        tasks = {}
        for task, p in found.items():
            metric = LabelDestruction(chance[task])
            metric.update(p)
            tasks[task] = _plain(metric.compute())
        summary[scorer] = {"tasks": tasks}
        if len(found) > 1:
            dropout = FeatureDropout({task: chance[task] for task in found})
            dropout.update(found)
            summary[scorer]["dropout"] = _plain(dropout.compute())
    return summary


def agreement(scores: Scores, chance: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return how often two scorers agree whether a view destroys a label, for each pair and each task."""
    scorers = list(scores.probability)
    pairs = [(a, b) for k, a in enumerate(scorers) for b in scorers[k + 1 :]]
    destroyed = {
        scorer: {task: p < chance[task] for task, p in found.items()} for scorer, found in scores.probability.items()
    }
    return {
        f"{a}, {b}": {task: (destroyed[a][task] == destroyed[b][task]).double().mean().item() for task in chance}
        for a, b in pairs
    }


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) if isinstance(value, Mapping) else value.tolist() for name, value in figures.items()}
