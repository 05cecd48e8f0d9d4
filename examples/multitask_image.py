"""The multi-task image experiments of Feature Dropout (Tamkin et al., NeurIPS 2023): an overlay on every photograph.

Encoders are pretrained on images that carry two labels, the photograph's and the overlay's, with the views of several
methods; linear probes on frozen features tell how much they know of either. Every finished cell is a file: a killed run
goes on where it was, and several processes can share a folder.

python -m viewaug.examples.multitask_image --preset cpu --data cifar10 --digits mnist --out DIR
python -m viewaug.examples.multitask_image report --out DIR
"""

import argparse
import functools
import logging
import math
import platform
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.examples.grid import default_workers, read_json, run_grid, tick
from viewaug.examples.multitask.backgrounds import SIZE, backgrounds
from viewaug.examples.multitask.methods import METHODS, Method, by_hand, parse, split
from viewaug.examples.multitask.overlays import OVERLAYS, Overlaid
from viewaug.examples.multitask.training import Contrastive, InTurns, Log, Training, build_encoder, fit

import viewaug
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.probes import Probe


@dataclass(frozen=True)
class Settings:
    """What a result depends on, the cell aside."""

    data: str = "photographs"
    digits: str = "digits"
    train_images: int = 10_000
    test_images: int = 5000
    crop: float = 0.7  # the smallest share of the area that the method `crop` shows
    redraw: bool = False  # overlays, in every epoch
    jitter: int = 0
    curve: int = 10  # epochs between two probes while training
    prepool: bool = False  # probe features before they are pooled, too
    views_in_probe: bool = False  # probe training images as views, too, as the paper does
    training: Training = field(default_factory=Training)


PRESETS = {
    "quick": Settings(
        train_images=128, test_images=100, curve=1, training=Training(epochs=1, batch=64, precision="32-true")
    ),
    "cpu": Settings(prepool=True),
    # As in the paper's text; --temperature 0.07 and, for letters, --budget 0.1 are what its code has.
    "paper": Settings(
        data="cifar10",
        digits="mnist",
        train_images=50_000,
        test_images=10_000,
        crop=0.2,
        redraw=True,
        curve=0,
        prepool=True,
        views_in_probe=True,
        training=Training(
            encoder="resnet18", epochs=200, lr=0.03, cosine=False, viewmaker_lr=1e-3, precision="32-true"
        ),
    ),
}
CELLS = ("none", "noise", "expert", "crop", "viewmaker", "crop+viewmaker", "expert+viewmaker", "manual")
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


def run_cell(
    overlay: str, name: str, seed: int, settings: Settings, out: Path, accelerator: str, max_steps: int = -1
) -> dict[str, Any]:
    """Pretrain and probe once; keep the viewmaker."""
    for noisy in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    method = parse(name)
    options = replace(settings.training, budget=method.budget or settings.training.budget)
    train, test = (_data(overlay, method, settings, seed, train) for train in (True, False))
    torch.manual_seed(seed)
    encoder, features = build_encoder(options.encoder)
    augment = by_hand(method.by_hand, SIZE, options.budget, settings.crop)
    viewmaker = _viewmaker(method, options)
    callback = None
    if viewmaker is not None and method.protocol == "turns":
        module: Contrastive = InTurns(encoder, features, options, viewmaker, seed)
    else:
        module = Contrastive(encoder, features, options, augment, seed)
        if viewmaker is not None:
            callback = _callback(viewmaker, options, method.steered, seed)
    module = module.to(memory_format=torch.channels_last)
    test_batch = _first(test)
    measure = functools.partial(probe, module.encoder, train, test_batch, count=2000)
    log = Log(measure, settings.curve, tick)
    label = f"{overlay}-{_file_name(name)}-{seed}"
    fit(
        module,
        train,
        out / "running" / label,
        log=log,
        logger=CSVLogger(out / "logs", name=label),
        viewmaker=callback,
        accelerator=accelerator,
        max_steps=max_steps,
    )
    views = _views(augment, viewmaker) if settings.views_in_probe else None
    scores = probe(module.encoder, train, test_batch)
    if settings.prepool:
        scores |= {f"{task} prepool": score for task, score in probe(_prepool(encoder), train, test_batch).items()}
    if views is not None:
        scores |= {f"{task} on views": v for task, v in probe(module.encoder, train, test_batch, views=views).items()}
    if viewmaker is not None:
        viewaug.save(viewmaker.cpu(), out / "viewmakers" / f"{label}.safetensors")
    last = log.curve[-1]
    if "overlay" in scores:
        scores["overlay_accuracy"] = scores.pop("overlay")
    cell = {"overlay": overlay, "method": name, "seed": seed, **scores, "loss": last["loss"]}
    if viewmaker is not None:
        cell["budget"] = viewmaker.budget
    return {**cell, "cpu_seconds": round(log.seconds, 1), "curve": log.curve}


@torch.no_grad()
def probe(
    encoder: nn.Module, train: Overlaid, test: dict[str, Any], *, count: int | None = None, views: Any = None
) -> dict[str, float]:
    """Test accuracy on clean images, in percent, of linear probes on frozen features, for each task.

    Args:
        encoder: returns features.
        train: what to fit the probes to.
        test: a batch to test them on.
        count: how many training images to use; None for all.
        views: makes views of a batch of training images; None for clean ones.
    """
    from threadpoolctl import threadpool_limits

    batch = _first(train, count)
    labels: dict[str, Tensor] = {task: batch[task] for task in ("background", "overlay") if task in batch}
    device = next(encoder.parameters()).device
    x = batch["views"][0].to(device)
    if views is not None:
        x = torch.cat([views(part) for part in x.split(250)])
    with threadpool_limits(1):  # each worker has a core
        fitted = Probe.fit(encoder, x, labels, batch=250)
    accuracy = fitted.accuracy(test["views"][0].to(device), {task: test[task] for task in labels}, batch=250)
    return {task: 100 * share for task, share in accuracy.items()}


def _prepool(encoder: nn.Sequential) -> nn.Module:
    return nn.Sequential(encoder[0], _Map(encoder[1]), nn.Flatten())


class _Map(nn.Module):
    """The feature map of a network of timm's."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)


def _viewmaker(method: Method, options: Training) -> viewaug.Viewmaker | None:
    if not method.learned:
        return None
    original: dict[str, Any] = {"constraint": "rescale", "value_range": None} if method.protocol == "turns" else {}
    return viewaug.Viewmaker(
        3, budget=options.budget, generator=method.generator, perturbation=list(method.perturbation), **original
    )


def _callback(viewmaker: viewaug.Viewmaker, options: Training, steered: bool, seed: int) -> ViewmakerCallback:
    controller = None
    if steered or options.difficulty is not None:
        target = {} if options.difficulty is None else {"target": options.difficulty}
        controller = viewaug.BudgetController(viewmaker, unrelated=math.log(2 * options.batch - 1), **target)
    return ViewmakerCallback(viewmaker, lr=options.viewmaker_lr, key="views", budget=controller, seed=seed)


def _views(augment: Any, viewmaker: viewaug.Viewmaker | None) -> Any:
    def make(x: Tensor) -> Tensor:
        x = augment(x) if augment is not None else x
        return viewmaker(x) if viewmaker is not None else x

    return make


def _data(overlay: str, method: Method, settings: Settings, seed: int, train: bool) -> Overlaid:
    images = _backgrounds(settings.data, train, settings.train_images if train else settings.test_images)
    return Overlaid(
        images,
        overlay,
        train=train,
        seed=seed if train else 0,
        redraw=settings.redraw and train,
        jitter=settings.jitter,
        shared_overlay_probability=method.shared_overlay_probability if train else 1.0,
        digits=settings.digits,
    )


@functools.lru_cache(2)
def _backgrounds(source: str, train: bool, count: int) -> Any:
    return backgrounds(source, train=train, count=count)


def _first(data: Overlaid, count: int | None = None) -> dict[str, Any]:
    return data.__getitems__(range(len(data))[:count])


def _file_name(method: str) -> str:
    return method.replace(":", "=")


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


def departures(settings: Mapping[str, Any]) -> str:
    """Return a table of the settings that are not the paper's."""
    ours, paper = ({**given, **given["training"]} for given in (settings, asdict(PRESETS["paper"])))
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


def write_report(out: Path) -> Path:
    """Write ``report.md`` and its figures from the cells in a folder."""
    cells, kept = read_cells(out)
    settings = "\n".join(f"- {name}: {value}" for name, value in kept.items())
    draw(cells, out / "curves.png")
    sweep = (
        "![Accuracy against budget](budgets.png)\n\n*Dots are runs with a fixed budget, stars runs with a controller, "
    )
    sweep = f"{sweep}at the budget where they ended.*\n\n" if draw_budgets(cells, out / "budgets.png") else ""
    with replacing(out / "report.md") as temporary:
        temporary.write_text(
            f"# Multi-task images\n\n{report(cells)}\n\n![Accuracy while training](curves.png)\n\n"
            f"*Every line is a run. While training, probes are fitted to 2,000 images.*\n\n{sweep}"
            "## Departures from the paper\n\n"
            f"{departures(kept)}\n\n{DEPARTURES}\n\n## Settings\n\n{settings}\n",
            encoding="utf-8",
        )
    return out / "report.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and report; or report only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("run", "report"), default="run", help="report: only report")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--data", help="photographs, cifar10 (downloaded), an .npz file or a folder of images")
    parser.add_argument("--digits", help="digits (scikit-learn's), mnist (downloaded) or an .npz file")
    parser.add_argument("--overlays", nargs="+", choices=OVERLAYS, default=("digits", "shapes", "letters", "none"))
    parser.add_argument(
        "--methods",
        nargs="+",
        default=CELLS,
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; also viewmaker:colour+warp, noise@0.1, viewmaker@steered",
    )
    parser.add_argument("--seeds", type=positive(int), default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--epochs", type=positive(int))
    parser.add_argument("--budget", type=positive(float))
    parser.add_argument("--difficulty", type=positive(float), help="have a controller adapt the budget, to hold this")
    parser.add_argument("--temperature", type=positive(float))
    parser.add_argument("--max-steps", type=positive(int), default=-1, help="stop every run early, to try it")
    parser.add_argument("--accelerator", default="cpu", help="Lightning's: cpu, gpu, ...")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2 on a CPU, else 1")
    options = parser.parse_args(arguments)
    if options.action == "run":
        settings = PRESETS[options.preset]
        given = {name: getattr(options, name) for name in ("epochs", "budget", "difficulty", "temperature")}
        training = replace(settings.training, **{name: value for name, value in given.items() if value is not None})
        settings = replace(
            settings, training=training, data=options.data or settings.data, digits=options.digits or settings.digits
        )
        try:
            for method in options.methods:
                parse(method)
            backgrounds(settings.data, train=True, count=1)
        except (OSError, TypeError, ValueError) as error:
            parser.error(str(error))
        cells = {
            f"{overlay}-{_file_name(method)}-{seed}": (
                overlay,
                method,
                seed,
                settings,
                options.out,
                options.accelerator,
                options.max_steps,
            )
            for seed in range(options.seeds)
            for overlay in dict.fromkeys(options.overlays)
            for method in dict.fromkeys(options.methods)
        }
        kept = asdict(settings) | {
            "data": Path(settings.data).name,
            "digits": Path(settings.digits).name,
            "max_steps": options.max_steps,
            "versions": {package: version(package) for package in ("torch", "lightning", "kornia", "lightly", "timm")},
            "python": platform.python_version(),
        }
        workers = options.workers or default_workers(options.accelerator)
        try:
            run_grid(run_cell, cells, options.out, kept, workers=workers, ticks=settings.training.epochs)
        except FileExistsError as error:
            parser.error(f"argument --out: {error}")
    try:
        print(write_report(options.out))
    except FileNotFoundError as error:
        parser.error(f"argument --out: {error}")


if __name__ == "__main__":
    main()
