"""The main job: learned views beside other ones, on real images that carry two labels at once.

For each kind of view a small encoder is pretrained with SimCLR on photographs with handwritten digits pasted on
(viewaug.examples.photo_digits); linear probes on its frozen features then tell how much it knows of either label.
Needs no download and no GPU. Killed and started again with the same --out, it goes on where it was.
"""

import argparse
import functools
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor, nn
from viewaug.examples.original_protocol import Player, alternating_step
from viewaug.examples.photo_digits import SIZE, PhotoDigits, photo_digits

import viewaug
from viewaug._files import replacing
from viewaug.commands._arguments import positive
from viewaug.comparison.grid import default_workers, held_out_tenth, run_grid, tick, write_json
from viewaug.comparison.handmade import noise_views, simclr_pipeline
from viewaug.comparison.objectives import OBJECTIVES, objective
from viewaug.comparison.schedules import warmed_cosine
from viewaug.comparison.views import family
from viewaug.generators import GENERATORS
from viewaug.probes import Probe, save_probe

TASKS = ("photo", "digit")
METHODS = ("untrained", "none", "random", "handmade", "learned")
UNPAIRED = ("untrained", "supervised")  # which take no views
FIXED = ("none", "noise", "handmade")
FEATURES = 64
Step = Callable[[PhotoDigits], Tensor]  # trains on a batch, and returns the loss


@dataclass(frozen=True)
class Settings:
    """What a result depends on, the method and the seed aside."""

    epochs: int = 8
    budget: float = 0.05
    generator: str = "fast"
    train_images: int = 4096
    test_images: int = 2000
    batch: int = 128
    temperature: float = 0.1
    lr: float = 0.06
    viewmaker_lr: float = 3e-3
    difficulty: float | None = None  # to which a controller steers the budget
    encoder: str = "residual"
    validation: bool = False  # probes score every tenth training image, held out, instead of the test images


class Block(nn.Module):
    """A basic residual block (He et al., CVPR 2016) that halves the resolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


def encoder(kind: str = "residual", width: int = 16) -> nn.Sequential:
    """A small network from images to ``4 * width`` features, residual, or plain and at full resolution first."""
    if kind == "plain":
        layers: list[nn.Module] = []
        for stage in range(3):
            wide = width << stage
            for before, stride in ((wide // 2 if stage else 3, 2 if stage else 1), (wide, 1)):
                conv = nn.Conv2d(before, wide, 3, stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(wide), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, 2 * width),
        Block(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def parse(method: str) -> tuple[str, str]:
    """Split the name of a method into its objective, SimCLR's where none is given, and its views."""
    objective_name, _, views = method.rpartition(":")
    return objective_name or "simclr", views


def make_viewmaker(views: str, settings: Settings) -> viewaug.Viewmaker:
    """A viewmaker of the default perturbation or of those in the name, whose random twin begins with ``random``."""
    first, *rest = names = views.split("+")
    named = rest if first in ("random", "learned", "original") else names
    generator = "random" if first == "random" else settings.generator
    return viewaug.Viewmaker(3, budget=settings.budget, generator=generator, perturbation=family(named or ["additive"]))


def fixed_views(views: str, settings: Settings) -> Callable[[Tensor], Sequence[Tensor]]:
    """Two views of a batch that are not learned."""
    if views == "handmade":
        pipeline = simclr_pipeline(SIZE)
        return lambda x: [pipeline(x), pipeline(x)]
    if views == "noise":
        return lambda x: [noise_views(x, settings.budget) for _ in range(2)]
    return lambda x: [x, x]


def self_supervised(
    method: str, backbone: nn.Module, settings: Settings, device: str
) -> tuple[Step, list[torch.optim.Optimizer], viewaug.Viewmaker | None]:
    """Return what trains on a batch, the optimizers whose rates are to be scheduled, and the viewmaker if any."""
    name, views = parse(method)
    model = objective(name, backbone, FEATURES, settings.temperature).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(trained, lr=settings.lr, momentum=0.9, weight_decay=5e-4)
    if views in FIXED:
        make = fixed_views(views, settings)
        return lambda data: descend(sgd, model(*make(data.images))), [sgd], None
    viewmaker = make_viewmaker(views, settings).to(device)
    if views == "original":
        adam = torch.optim.Adam(viewmaker.parameters(), lr=settings.viewmaker_lr)
        players = Player(model, sgd, 1), Player(viewmaker, adam, -1)

        def take_turns(data: PhotoDigits) -> Tensor:
            x = torch.cat([data.images] * 2)
            return alternating_step(lambda: model(*viewmaker(x).chunk(2)), *players)

        return take_turns, [sgd, adam], viewmaker
    augmentation = viewaug.AdversarialAugmentation(viewmaker)
    joint = viewaug.JointOptimizer(sgd, viewmaker.parameters(), lr=settings.viewmaker_lr)
    controller = None
    if settings.difficulty is not None and viewmaker.budget is not None:
        unrelated = math.log(2 * settings.batch - 1)
        controller = viewaug.BudgetController(viewmaker, target=settings.difficulty, unrelated=unrelated)

    def step(data: PhotoDigits) -> Tensor:
        loss = descend(joint, model(*augmentation.views(data.images)))
        if controller is not None:
            controller.step(loss)
        return loss

    return step, [joint], viewmaker


def supervised(backbone: nn.Module, settings: Settings, device: str) -> tuple[Step, list[torch.optim.Optimizer]]:
    """As `self_supervised`, of clean images and all their labels: its encoder scores views independently."""
    heads = nn.ModuleDict({task: nn.Linear(FEATURES, 10) for task in TASKS}).to(device)
    parameters = [*backbone.parameters(), *heads.parameters()]
    sgd = torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=5e-4)

    def step(data: PhotoDigits) -> Tensor:
        features = backbone(data.images)
        losses = [nn.functional.cross_entropy(head(features), getattr(data, task)) for task, head in heads.items()]
        return descend(sgd, torch.stack(losses).sum())

    return step, [sgd]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Take a step down a loss, and return it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def pretrain(
    method: str, seed: int, settings: Settings, data: PhotoDigits, device: str
) -> tuple[nn.Sequential, viewaug.Viewmaker | None, dict[str, float]]:
    """Pretrain an encoder, by default with SimCLR (Chen et al., ICML 2020)."""
    torch.manual_seed(seed)
    backbone = encoder(settings.encoder).to(memory_format=torch.channels_last).to(device)
    viewmaker = None
    if method == "untrained":
        return backbone, None, {}
    if method == "supervised":
        step, optimizers = supervised(backbone, settings, device)
    else:
        step, optimizers, viewmaker = self_supervised(method, backbone, settings, device)
    count = len(data.images)
    steps = settings.epochs * (count // settings.batch)
    # Both players' learning rates fall, so that neither runs away from the other at the end.
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(steps)) for optimizer in optimizers]

    losses: list[Tensor] = []
    start = time.process_time()
    for _ in range(settings.epochs):
        losses.clear()
        for index in torch.randperm(count).split(settings.batch):
            if len(index) < settings.batch:
                continue
            batch = PhotoDigits(*(part[index].to(device) for part in data))
            losses.append(step(batch._replace(images=batch.images.to(memory_format=torch.channels_last))))
            for scheduler in schedulers:
                scheduler.step()
        tick()
    final = torch.stack(losses).mean().item()
    return backbone, viewmaker, {"loss": final, "cpu_seconds": time.process_time() - start}


def probe(backbone: nn.Module, train: PhotoDigits, test: PhotoDigits, device: str) -> tuple[Probe, dict[str, float]]:
    """Fit linear probes to clean images, and return them with their test accuracy, in percent, for each task."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # each worker has a core
        fitted = Probe.fit(backbone, train.images.to(device), {task: getattr(train, task) for task in TASKS})
    x = test.images.to(device)
    with torch.no_grad():
        features = fitted.encoder(x)
    # 1 if the features point in all directions, 0 if all in the same one
    scores = {"spread": std_of_l2_normalized(features).item() * math.sqrt(features.shape[1])}
    accuracy = fitted.accuracy(x, {task: getattr(test, task) for task in TASKS}, batch=len(x))
    scores |= {task: 100 * share for task, share in accuracy.items()}
    return fitted, scores


def splits(settings: Settings) -> tuple[PhotoDigits, PhotoDigits]:
    """Return what to train on, and what probes score: test images, or a tenth of the training images."""
    train = _data(settings.train_images, True)
    if not settings.validation:
        return train, _data(settings.test_images, False)
    held_out = held_out_tenth(len(train.images))
    return PhotoDigits(*(part[~held_out] for part in train)), PhotoDigits(*(part[held_out] for part in train))


def run_cell(method: str, seed: int, settings: Settings, device: str, out: Path) -> dict[str, Any]:
    """Pretrain and probe once; keep the viewmaker and the probes."""
    train, test = splits(settings)
    backbone, viewmaker, figures = pretrain(method, seed, settings, train, device)
    if viewmaker is not None:
        viewaug.save(viewmaker, _viewmaker_file(out, method, seed))
    fitted, scores = probe(backbone, train, test, device)
    save_probe(fitted, out / f"{_file_name(method)}-{seed}.pt2", test.images)
    return {"method": method, "seed": seed, **scores, **figures}


def table(cells: Sequence[dict[str, Any]], *, validation: bool = False) -> str:
    """Method x task: mean and standard deviation over the seeds."""
    seeds = len({cell["seed"] for cell in cells})
    split = " on held-out training images" if validation else ""
    lines = [
        f"Linear probe accuracy in %{split}, the loss at the end, and the spread of the features: "
        f"mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}",
        "",
    ]
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    width = max(9, *map(len, methods))
    columns = (
        *((task, (task,), 1) for task in TASKS),
        ("mean", TASKS, 1),
        ("loss", ("loss",), 2),
        ("spread", ("spread",), 2),
    )
    lines.append(f"| {'views':{width}} | " + " | ".join(f"{name:>12}" for name, _, _ in columns) + " |")
    lines.append(f"| {'-' * width} | " + " | ".join("-----------:" for _ in columns) + " |")
    for method in methods:
        row = []
        for _, keys, digits in columns:
            found = [cell for cell in cells if cell["method"] == method and keys[0] in cell]
            values = [statistics.mean(cell[key] for key in keys) for cell in found]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            row.append((f"{statistics.mean(values):.{digits}f}{spread}" if values else "").rjust(12))
        lines.append(f"| {method:{width}} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw(out: Path, methods: Sequence[str]) -> Path:
    """Draw inputs, and for each method a view and its change; of a single method three views, by different noise."""
    from viewaug.plots import view_grid

    torch.set_num_threads(1)
    x = photo_digits(10, train=False).images
    views = []
    for method, seed in (
        [(method, 0) for method in methods] if len(methods) > 1 else [(methods[0], i) for i in range(3)]
    ):
        viewmaker = viewaug.load(_viewmaker_file(out, method, 0))
        with torch.no_grad():
            views.append(viewmaker(x, viewmaker.draw_noise(x, torch.Generator().manual_seed(seed))))
    figure = view_grid(x, views, labels=methods if len(methods) > 1 else None)
    with replacing(out / "views.png") as temporary:
        figure.savefig(temporary, dpi=130)
    return out / "views.png"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="viewaug demo", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=METHODS,
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; noise; original for learned views by the papers' protocol; supervised for the "
        "labels themselves, on clean images; learned views of another perturbation, such as colour or "
        "spectral+colour+warp; random+colour, ... for their random twins. With another objective than SimCLR's: "
        "byol:learned",
    )
    parser.add_argument("--seeds", type=positive(int), default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--epochs", type=positive(int), default=defaults.epochs, help="epochs of pretraining")
    parser.add_argument(
        "--budget", type=positive(float), default=defaults.budget, help="mean absolute change of a pixel"
    )
    parser.add_argument(
        "--generator", choices=GENERATORS, default=defaults.generator, help="network that makes the views"
    )
    parser.add_argument("--images", type=positive(int), default=defaults.train_images, help="training images")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score a held-out tenth of the training images instead of the test images: for choosing settings",
    )
    parser.add_argument("--batch", type=positive(int), default=defaults.batch, help="images of a step")
    parser.add_argument(
        "--difficulty",
        type=positive(float),
        default=None,
        help="have the budget adapt to this share of the highest loss",
    )
    parser.add_argument(
        "--encoder", choices=("residual", "plain"), default=defaults.encoder, help="network to pretrain"
    )
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--workers", type=positive(int), default=None, help="processes; default 2 on a CPU, else 1")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results, figure and viewmakers")
    options = parser.parse_args(arguments)
    settings = Settings(
        epochs=options.epochs,
        budget=options.budget,
        generator=options.generator,
        train_images=options.images,
        validation=options.validation,
        batch=options.batch,
        difficulty=options.difficulty,
        encoder=options.encoder,
    )
    if options.images - options.validation * (options.images // 10) < options.batch:
        parser.error(f"argument --images: expected at least one batch of {options.batch}, but got {options.images}")
    options.methods = list(dict.fromkeys(options.methods))
    for method in options.methods:
        name, views = parse(method)
        if views in UNPAIRED:
            if method != views:
                parser.error(f"argument --methods: {views} has no objective, but got {method}")
            continue
        if name not in OBJECTIVES:
            parser.error(f"argument --methods: expected an objective of {', '.join(OBJECTIVES)}, but got {name}")
        try:
            views in FIXED or make_viewmaker(views, settings)
        except (TypeError, ValueError) as error:
            parser.error(f"argument --methods: {error}")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"argument --device: {error}")

    cells = {
        f"{_file_name(method)}-{seed}": (method, seed, settings, options.device, options.out)
        for seed in range(options.seeds)
        for method in options.methods
    }
    workers = options.workers or default_workers(options.device)
    try:
        found = run_grid(run_cell, cells, options.out, asdict(settings), workers=workers, ticks=settings.epochs)
    except FileExistsError as error:
        parser.error(f"argument --out: {error}")
    results = list(found.values())
    packages = ("torch", "kornia", "lightly", "scikit-learn", "scikit-image")
    versions = {"python": platform.python_version(), "viewaug": viewaug.__version__}
    versions |= {package: version(package) for package in packages}
    text = table(results, validation=settings.validation)
    write_json(
        options.out / "results.json",
        {
            "settings": asdict(settings),
            "seeds": options.seeds,
            "device": options.device,
            "versions": versions,
            "cells": results,
        },
    )
    files = [options.out / "results.json"]
    learned = [method for method in options.methods if parse(method)[1] not in FIXED + UNPAIRED]
    learned = [method for method in learned if not parse(method)[1].startswith("random")] or learned
    if learned:
        files += [draw(options.out, learned), _viewmaker_file(options.out, learned[0], 0)]
    files += [_write_data(options.out, _data(settings.test_images, False))]
    print(f"\n{text}\n", *files, sep="\n")


def _write_data(out: Path, data: PhotoDigits) -> Path:
    """Write the test images, for ``viewaug diagnose``."""
    with replacing(out / "data.npz") as temporary:
        np.savez_compressed(temporary, x=data.images, mask=data.mask, **{task: getattr(data, task) for task in TASKS})
    return out / "data.npz"


@functools.cache
def _data(n: int, train: bool) -> PhotoDigits:
    return photo_digits(n, train=train)


def _file_name(method: str) -> str:
    return method.replace(":", "-")


def _viewmaker_file(out: Path, method: str, seed: int) -> Path:
    return out / f"{'viewmaker' if method == 'learned' else _file_name(method)}-{seed}.safetensors"


if __name__ == "__main__":
    main()
