"""Measure which labels a viewmaker's views destroy, and how much by chance: tables, figures and a report.

The data are an .npz file: `x`, (N, C, ...), one array of N integers for each label, and, if known, the place of an
overlay, `mask`, (N, 1, ...), in [0, 1]. A probe is a file of viewaug.probes.save_probe. Give several to see how much
the answer depends on who scores: the encoder's own probe; that of an encoder trained on other views, as the paper does;
and an independent one, trained with labels on clean inputs. Killed and started again, it goes on where it was.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import viewaug
from viewaug._files import sha256, write_tensors
from viewaug._imports import import_function
from viewaug.adversary import check_values
from viewaug.budget import ValueRange, constrain
from viewaug.commands._arguments import positive, seed
from viewaug.probes import load_probe

if TYPE_CHECKING:
    from viewaug.diagnosis import Data, Scores, Views


def main(arguments: Sequence[str] | None = None) -> None:
    """Score views, and write the report."""
    parser = argparse.ArgumentParser(
        prog="viewaug diagnose", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    named = "FILE, called by its stem, or NAME=FILE"
    parser.add_argument("--checkpoint", nargs="+", required=True, metavar="FILE", help=f"viewmakers: {named}")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help=".npz of inputs, labels, maybe a mask")
    parser.add_argument("--probe", nargs="+", required=True, metavar="FILE", help=f"who scores: {named}")
    parser.add_argument("--trust", action="store_true", help="read probes, in whose files there can be code")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.md, results.json and figures")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="other augmentations, functions from a batch to views of it; noise of the first viewmaker's budget is "
        "always compared",
    )
    parser.add_argument("--views", type=positive(int), default=64, help="views of each input")
    parser.add_argument("--count", type=positive(int), default=500, help="inputs at most, the first ones")
    parser.add_argument("--seed", type=seed, default=0, help="of the views")
    options = parser.parse_args(arguments)
    if options.views < 2:
        parser.error(f"argument --views: expected at least 2, but got {options.views}")
    try:
        _diagnose(options)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug diagnose: {error}\n")
    print(options.out / "report.md")


def _diagnose(options: argparse.Namespace) -> None:
    try:
        from viewaug.commands._report import write_report
        from viewaug.diagnosis import score
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'viewaug[diagnose]'") from error

    checkpoints, compared = _named("--checkpoint", options.checkpoint), _named("--compare", options.compare)
    names = [*checkpoints, "noise", *compared]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected different names of views, none of them `noise`, but got {', '.join(names)}.")
    viewmakers = {name: viewaug.load(file).float() for name, file in checkpoints.items()}
    first = next(iter(viewmakers.values()))
    data = read_data(options.data, options.count)
    for viewmaker in viewmakers.values():
        check_values(data.x, viewmaker)
    files = _named("--probe", options.probe)
    scorers = {name: load_probe(file, trust=options.trust) for name, file in files.items()}

    budget = first.budget
    if budget is None:  # noise that changes as much
        sample = data.x[:256]
        view = _views(first, data.x)(sample, torch.Generator().manual_seed(options.seed))
        budget = viewaug.distortion(sample, view).mean().item()
    views = {name: _views(viewmaker, data.x) for name, viewmaker in viewmakers.items()}
    views |= {"noise": _noise(budget, first.value_range)} | {name: _function(path) for name, path in compared.items()}
    sources = {name: sha256(file) for name, file in checkpoints.items()}
    sources |= {"noise": f"budget {budget}"} | compared
    common = {
        "data": sha256(options.data),
        "probes": {name: sha256(file) for name, file in files.items()},
        "views": options.views,
        "count": len(data.x),
        "tasks": list(data.labels),
        "seed": options.seed,
    }
    scores = {}
    for name in names:
        file = options.out / "cells" / f"{name}.safetensors"
        settings = common | {"source": sources[name]}
        found = _read_scores(file, settings)
        if found is None:
            value_range = viewmakers.get(name, first).value_range
            found = score(
                views[name], scorers, data, options.views, seed=options.seed, value_range=value_range, name=name
            )
            _write_scores(file, found, settings)
        scores[name] = found
    write_report(options.out, data, scores, scorers, views, options.seed, first.value_range)


def read_data(file: Path, count: int) -> "Data":
    """Read the first inputs of an .npz file, with their labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is broken, or its arrays do not fit.
    """
    import numpy

    from viewaug.diagnosis import Data

    if not file.is_file():
        raise FileNotFoundError(f"Expected data at {file}, but there is no such file.")
    try:
        with numpy.load(file, allow_pickle=False) as opened:
            arrays = {name: torch.from_numpy(opened[name]) for name in opened.files}
    except Exception as error:  # broken files make the reader raise all sorts
        raise ValueError(f"{file} cannot be read: {error}") from error
    if "x" not in arrays or not arrays["x"].is_floating_point() or arrays["x"].ndim < 3:
        raise ValueError(f"Expected `x` in {file}, floats of shape (N, C, ...), but found {', '.join(arrays)}.")
    x = arrays.pop("x").float()
    if not x.numel():
        raise ValueError(f"Expected `x` in {file} to hold inputs, but its shape is {tuple(x.shape)}.")
    mask = arrays.pop("mask", None)
    if mask is not None and mask.shape != (len(x), 1, *x.shape[2:]):
        raise ValueError(
            f"Expected `mask` in {file} of shape {(len(x), 1, *x.shape[2:])}, but got {tuple(mask.shape)}."
        )
    if not arrays:
        raise ValueError(f"Expected at least one array of labels in {file}, but found none.")
    for name, label in arrays.items():
        if label.shape != (len(x),) or label.is_floating_point() or label.is_complex() or label.min() < 0:
            raise ValueError(f"Expected the labels {name!r} in {file} to be {len(x)} integers from 0.")
    labels = {name: label[:count].long() for name, label in arrays.items()}
    return Data(x[:count], labels, None if mask is None else mask[:count].float())


def _named(option: str, values: Sequence[str]) -> dict[str, str]:
    named = {}
    for value in values:
        name, separator, rest = value.partition("=")
        if not separator or Path(value).is_file():  # whose name may have a sign of equality, or a point, in it
            name, rest = Path(value).stem, value
        if name in named or not name or not rest or "/" in name:
            raise ValueError(f"Expected {option} as NAME=..., of different names, but got {value!r}.")
        named[name] = rest
    return named


def _views(viewmaker: viewaug.Viewmaker, data: Tensor) -> "Views":
    def make(x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            if not viewmaker.perturbation.batched:
                return viewmaker(x, viewmaker.draw_noise(x, generator))
            # What comes in are views of one input. Each is to be mixed with another input, beside it in a batch of two.
            others = data[torch.randint(len(data), (len(x),), generator=generator)]
            pairs = torch.stack([x, others], 1).flatten(0, 1)
            return viewmaker(pairs, viewmaker.draw_noise(pairs, generator), copies=len(x))[::2]

    return make


def _noise(budget: float, value_range: ValueRange) -> "Views":
    def make(x: Tensor, generator: torch.Generator) -> Tensor:
        delta = 2 * torch.rand(x.shape, generator=generator) - 1
        return constrain(x, delta, budget, value_range)

    return make


def _function(path: str) -> "Views":
    function = import_function(path)

    def make(x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(generator.initial_seed())
            view = function(x)
        if not isinstance(view, Tensor) or view.shape != x.shape:
            raise ValueError(f"Expected {path} to return views of the shape {tuple(x.shape)}.")
        return view

    return make


def _write_scores(file: Path, scores: "Scores", settings: dict[str, Any]) -> None:
    tensors = {f"{scorer}/{task}": p for scorer, found in scores.probability.items() for task, p in found.items()}
    if scores.mask_share is not None:
        tensors["mask"] = scores.mask_share
    metadata = {"settings": json.dumps(settings), "distortion": json.dumps(scores.distortion)}
    write_tensors(file, tensors, metadata)


def _read_scores(file: Path, settings: dict[str, Any]) -> "Scores | None":
    from viewaug.diagnosis import Scores

    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}; delete it to score anew.") from error
    if json.loads(metadata["settings"]) != settings:
        raise ValueError(f"Expected --out to be new or of the same run, but {file} is of other files or settings.")
    probability = {
        scorer: {task: tensors[f"{scorer}/{task}"] for task in settings["tasks"]} for scorer in settings["probes"]
    }
    return Scores(probability, tensors.get("mask"), json.loads(metadata["distortion"]))
