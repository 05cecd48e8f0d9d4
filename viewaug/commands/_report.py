"""The tables, figures and sentences of ``viewaug diagnose``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.budget import ValueRange
from viewaug.diagnosis import Data, Scores, Views, agreement, summarise, views_of
from viewaug.plots import dropout_matrices, mask_shares, probability_histograms, sorted_views
from viewaug.probes import Scorer, correct_probability


def write_report(
    out: Path,
    data: Data,
    scores: Mapping[str, Scores],
    scorers: Mapping[str, Scorer],
    views: Mapping[str, Views],
    seed: int,
    value_range: ValueRange,
) -> None:
    """Write ``report.md``, ``results.json`` and the figures."""
    first, *_ = scores.values()
    by_task, *_ = first.probability.values()
    probability, *_ = by_task.values()
    summaries = {name: summarise(found, data.chance) for name, found in scores.items()}
    results = {
        "inputs": len(data.x),
        "views": probability.shape[1],
        "seed": seed,
        "chance": data.chance,
        "clean": _clean(data, scorers),
        "mask_area": None if data.mask is None else data.mask.mean().item(),
        "methods": {
            name: {
                "scorers": summaries[name],
                "agreement": agreement(found, data.chance),
                "distortion": found.distortion,
                "mask_share": None if found.mask_share is None else found.mask_share.nanmedian().item(),
            }
            for name, found in scores.items()
        },
    }
    figures = _figures(data, scores, summaries, views, seed, value_range)
    for name, (figure, _) in figures.items():
        with replacing(out / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=130)
    with replacing(out / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = [f"# Which labels views destroy: {', '.join(data.labels)}", tables(results)]
    text += [f"{sentence}\n\n![{name}]({name}.png)" for name, (_, sentence) in figures.items()]
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def tables(results: Mapping[str, Any]) -> str:
    """Return the results as tables, each with a sentence that explains it."""
    methods = results["methods"]
    scorers = list(results["clean"])
    chance = ", ".join(f"{value:.3g} for {task}" for task, value in results["chance"].items())
    parts = [
        f"{results['views']} views of each of {results['inputs']} inputs. A label counts as destroyed where its "
        f"scorer gives it less than chance: {chance}.",
        "**Survival** is the mean probability of the correct label on views (clean: on the inputs themselves); "
        "**destroyed** the share of views below chance; **within** the share of the variance that lies between views "
        "of one input, 1 if chance alone decides and 0 if the input does; **bimodality** is Sarle's coefficient, "
        "above 0.56 (a uniform distribution's) for two modes. ± is half a 95% interval, by bootstrap over inputs.",
    ]
    rows = []
    for scorer in scorers:
        for task, clean in results["clean"][scorer].items():
            for method, result in methods.items():
                found = result["scorers"][scorer]["tasks"][task]
                cells = [_with_interval(found, name) for name in ("survival", "destruction", "within", "bimodality")]
                rows.append([scorer, task, f"{clean:.2f}", method, *cells])
    parts.append(
        markdown_table(["scorer", "label", "clean", "views", "survival", "destroyed", "within", "bimodality"], rows, 2)
    )
    if len(results["chance"]) > 1:
        rows = []
        for scorer in scorers:
            for method, result in methods.items():
                found = result["scorers"][scorer]["dropout"]
                correlation = [found["correlation"][i][j] for i in range(len(found["survival"])) for j in range(i)]
                cells = [f"{found[name]:.3f}" for name in ("none", "one", "all")]
                rows.append([scorer, method, *cells, ", ".join(f"{value:.2f}" for value in correlation)])
        parts += [
            "Feature dropout: the share of views that destroy no label, exactly **one**, and all of them, and the "
            "correlation of the labels' survival, negative if views destroy one or the other.",
            markdown_table(["scorer", "views", "none", "one", "all", "correlation"], rows, 2),
        ]
    if len(scorers) > 1:
        tasks = list(results["chance"])
        rows = [
            [method, pair, *(f"{found[task]:.3f}" for task in tasks)]
            for method, result in methods.items()
            for pair, found in result["agreement"].items()
        ]
        parts += [
            "How much the answer depends on the scorer: the share of views on which two agree whether a label is "
            "destroyed.",
            markdown_table(["views", "scorers", *tasks], rows, 2),
        ]
    rows = []
    for method, result in methods.items():
        found, share = result["distortion"], result["mask_share"]
        low, median, high = found["quantiles"]
        cells = [f"{found['mean']:.3g}", f"{low:.3g}, {median:.3g}, {high:.3g}", f"{found['linf']:.3g}"]
        rows.append([method, *cells, f"{found['at_bounds']:.3f}", *([] if share is None else [f"{share:.3f}"])])
    area = results["mask_area"]
    on_mask = "" if area is None else f" The median share of the change **on the mask**, which covers {area:.3f}."
    parts += [
        "Distortion, the mean |view - x| of a view: mean, quantiles (5, 50, 95%); the largest change of a value; and "
        f"the share of values at the range's ends.{on_mask}",
        markdown_table(
            ["views", "mean", "quantiles", "largest", "at bounds", *([] if area is None else ["on the mask"])], rows, 1
        ),
    ]
    return "\n\n".join(parts)


def _figures(
    data: Data,
    scores: Mapping[str, Scores],
    summaries: Mapping[str, Any],
    views: Mapping[str, Views],
    seed: int,
    value_range: ValueRange,
) -> dict[str, tuple[Figure, str]]:
    """Return figures, each with the sentence that explains it."""
    figures = {}
    first = next(iter(scores))
    for scorer in scores[first].probability:
        found = {name: method.probability[scorer] for name, method in scores.items()}
        figures[f"probability-{scorer}"] = (
            probability_histograms(found, data.chance),
            f"The probability that `{scorer}` gives to the correct label, over all views: a heap on the left are views "
            "that destroyed it, two heaps are views that did or did not; the dotted line is chance.",
        )
        if len(data.labels) > 1:
            matrices = {
                name: torch.tensor(summary[scorer]["dropout"]["dropout"]) for name, summary in summaries.items()
            }
            figures[f"dropout-{scorer}"] = (
                dropout_matrices(matrices, list(data.labels)),
                f"Of the views that destroy one label (row), the share on which another one (column) survives, by "
                f"`{scorer}`: large off the diagonal if views drop one feature at a time.",
            )
    scorer = next(iter(scores[first].probability))
    for task, p in scores[first].probability[scorer].items():
        index = int(p.var(1).argmax())
        made = views_of(views[first], data.x, index, p.shape[1], seed)
        figures[f"views-{task}"] = (
            sorted_views(data.x[index], made, p[index], value_range=value_range),
            f"Views by `{first}` of the input whose views differ most in the probability that `{scorer}` gives to "
            f"its {task} (above each), from those that destroy it to those that keep it, and what they change.",
        )
    if data.mask is not None:
        shares = {name: found.mask_share for name, found in scores.items() if found.mask_share is not None}
        figures["mask"] = (
            mask_shares(shares, data.mask.mean().item()),
            "How much of each view's change lies on the mask: right of the dotted line, the mask's own share of the "
            "signal, views aim at it.",
        )
    return figures


def _clean(data: Data, scorers: Mapping[str, Scorer]) -> dict[str, dict[str, float]]:
    """The mean probability of the correct label on the inputs themselves."""
    found: dict[str, dict[str, float]] = {}
    for name, scorer in scorers.items():
        parts = [
            correct_probability(scorer, x, {task: label[i : i + 64] for task, label in data.labels.items()})
            for i, x in zip(range(0, len(data.x), 64), data.x.split(64), strict=True)
        ]
        found[name] = {task: torch.cat([part[task] for part in parts]).mean().item() for task in data.labels}
    return found


def _with_interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures["interval"][name]
    return f"{figures[name]:.2f} ± {(high - low) / 2:.2f}"
