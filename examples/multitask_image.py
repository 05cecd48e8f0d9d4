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
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.examples.grid import default_workers, run_grid, tick
from viewaug.examples.multitask.backgrounds import SIZE, backgrounds
from viewaug.examples.multitask.destruction import SCORERS, draw_destruction
from viewaug.examples.multitask.methods import METHODS, Method, by_hand, parse
from viewaug.examples.multitask.overlays import OVERLAYS, Overlaid
from viewaug.examples.multitask.report import read_cells, write_report
from viewaug.examples.multitask.training import Contrastive, InTurns, Log, Training, build_encoder, fit

import viewaug
from viewaug.commands._arguments import positive
from viewaug.probes import Probe, save_probe


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


def run_cell(
    overlay: str, name: str, seed: int, settings: Settings, out: Path, accelerator: str, max_steps: int = -1
) -> dict[str, Any]:
    """Pretrain and probe once; keep the viewmaker, and the probes that figures need."""
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
    log = Log(lambda: probe(module.encoder, train, test_batch, count=2000)[1], settings.curve, tick)
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
    fitted, scores = probe(module.encoder, train, test_batch)
    if name in SCORERS:
        save_probe(fitted, out / "probes" / f"{label}.pt2", test_batch["views"][0])
    if settings.prepool:
        scores |= {f"{task} prepool": v for task, v in probe(_prepool(encoder), train, test_batch)[1].items()}
    if views is not None:
        _, found = probe(module.encoder, train, test_batch, views=views)
        scores |= {f"{task} on views": v for task, v in found.items()}
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
) -> tuple[Probe, dict[str, float]]:
    """Fit linear probes to frozen features; return them and their test accuracy on clean images, in percent.

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
    return fitted, {task: 100 * share for task, share in accuracy.items()}


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


def _settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Settings:
    settings = PRESETS[options.preset]
    given = {name: getattr(options, name) for name in ("epochs", "budget", "difficulty", "temperature")}
    training = replace(settings.training, **{name: value for name, value in given.items() if value is not None})
    settings = replace(
        settings, training=training, data=options.data or settings.data, digits=options.digits or settings.digits
    )
    try:
        for method in options.methods:
            parse(method)
        if options.action == "run" or options.data:
            backgrounds(settings.data, train=True, count=1)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    return settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and report; or report only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "action",
        nargs="?",
        choices=("run", "report"),
        default="run",
        help="report: only report; with --data, draw views, too",
    )
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
    parser.add_argument("--seeds", type=positive(int), help="number of seeds, 0 to N-1; default 3, or 1 if quick")
    parser.add_argument("--epochs", type=positive(int))
    parser.add_argument("--budget", type=positive(float))
    parser.add_argument("--difficulty", type=positive(float), help="have a controller adapt the budget, to hold this")
    parser.add_argument("--temperature", type=positive(float))
    parser.add_argument("--max-steps", type=positive(int), default=-1, help="stop every run early, to try it")
    parser.add_argument("--accelerator", default="cpu", help="Lightning's: cpu, gpu, ...")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2 on a CPU, else 1")
    options = parser.parse_args(arguments)
    settings = _settings(parser, options)
    if options.action == "run":
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
            for seed in range(options.seeds or (1 if options.preset == "quick" else 3))
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
        finished = {cell["overlay"] for cell in read_cells(options.out)[0]} - {"none"}
        for overlay in finished if options.action == "run" or options.data else ():
            test = _data(overlay, METHODS["none"], settings, 0, train=False)
            draw_destruction(options.out, test, budget=settings.training.budget, crop=settings.crop)
        print(write_report(options.out, asdict(PRESETS["paper"])))
    except FileNotFoundError as error:
        parser.error(f"argument --out: {error}")


if __name__ == "__main__":
    main()
