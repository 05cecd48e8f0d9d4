"""The main job: learned views beside other ones, on real images that carry two labels at once.

For each kind of view a small encoder is pretrained with SimCLR on photographs with handwritten digits pasted on
(viewaug.examples.photo_digits); linear probes on its frozen features then tell how much it knows of either label.
Needs no download and no GPU. Killed and started again with the same --out, it goes on where it was.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor, nn
from tqdm import tqdm
from viewaug.examples.handmade import simclr_pipeline
from viewaug.examples.objectives import OBJECTIVES, Objective, objective
from viewaug.examples.original_protocol import Player, alternating_step
from viewaug.examples.photo_digits import SIZE, PhotoDigits, photo_digits

import viewaug
from viewaug._files import replacing
from viewaug.budget import constrain
from viewaug.commands._arguments import positive

TASKS = ("photo", "digit")
METHODS = ("untrained", "none", "noise", "handmade", "learned")
FIXED = METHODS[:-1]


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


def encoder(width: int = 16) -> nn.Sequential:
    """A small residual network from images to ``4 * width`` features."""
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


def perturbation(views: str) -> list[str]:
    """What learned views do: the viewmaker's default, or what they are called."""
    return ["additive"] if views in ("learned", "original") else views.split("+")


def fixed_views(views: str, settings: Settings) -> Callable[[Tensor], Sequence[Tensor]]:
    """Two views of a batch that are not learned."""
    if views == "handmade":
        pipeline = simclr_pipeline(SIZE)
        return lambda x: [pipeline(x), pipeline(x)]
    if views == "noise":
        return lambda x: [constrain(x, 2 * torch.rand_like(x) - 1, settings.budget, (0.0, 1.0)) for _ in range(2)]
    return lambda x: [x, x]


def training_step(
    views: str, settings: Settings, model: Objective, viewmaker: viewaug.Viewmaker | None
) -> tuple[Callable[[Tensor], Tensor], list[torch.optim.Optimizer]]:
    """Return what trains on a batch and returns the loss, and the optimizers whose rates are to be scheduled."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(trained, lr=settings.lr, momentum=0.9, weight_decay=5e-4)
    optimizer: torch.optim.Optimizer = sgd
    if views == "original":
        assert viewmaker is not None
        adam = torch.optim.Adam(viewmaker.parameters(), lr=settings.viewmaker_lr)
        players = Player(model, sgd, 1), Player(viewmaker, adam, -1)

        def take_turns(x: Tensor) -> Tensor:
            return alternating_step(lambda: model(*viewmaker(torch.cat([x, x])).chunk(2)), *players)

        return take_turns, [sgd, adam]
    make = fixed_views(views, settings)
    if viewmaker is not None:
        make = viewaug.AdversarialAugmentation(viewmaker).views
        optimizer = viewaug.JointOptimizer(sgd, viewmaker.parameters(), lr=settings.viewmaker_lr)

    def step(x: Tensor) -> Tensor:
        loss = model(*make(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, [optimizer]


def pretrain(
    method: str, seed: int, settings: Settings, images: Tensor, device: str, after_epoch: Callable[[], None]
) -> tuple[nn.Sequential, viewaug.Viewmaker | None, dict[str, float]]:
    """Pretrain an encoder, by default with SimCLR (Chen et al., ICML 2020)."""
    torch.manual_seed(seed)
    backbone = encoder().to(memory_format=torch.channels_last).to(device)
    if method == "untrained":
        return backbone, None, {}
    name, views = parse(method)
    model = objective(name, backbone, 64, settings.temperature).to(device)
    viewmaker = None
    if views not in FIXED:
        viewmaker = viewaug.Viewmaker(
            3, budget=settings.budget, generator=settings.generator, perturbation=perturbation(views)
        ).to(device)
    step, optimizers = training_step(views, settings, model, viewmaker)
    steps = settings.epochs * (len(images) // settings.batch)
    # Both players' learning rates fall, so that neither runs away from the other at the end.
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        for optimizer in optimizers
    ]

    losses: list[Tensor] = []
    start = time.process_time()
    for _ in range(settings.epochs):
        losses.clear()
        for index in torch.randperm(len(images)).split(settings.batch):
            if len(index) < settings.batch:
                continue
            losses.append(step(images[index].to(device, memory_format=torch.channels_last)))
            for scheduler in schedulers:
                scheduler.step()
        after_epoch()
    final = torch.stack(losses).mean().item()
    return backbone, viewmaker, {"loss": final, "cpu_seconds": time.process_time() - start}


@torch.no_grad()
def features(backbone: nn.Module, images: Tensor, device: str) -> Any:
    """Frozen features, as a NumPy array."""
    backbone.eval()
    return torch.cat([backbone(part.to(device)).cpu() for part in images.split(512)]).numpy()


def probe(backbone: nn.Module, train: PhotoDigits, test: PhotoDigits, device: str) -> dict[str, float]:
    """Test accuracy, in percent, of a linear probe on clean images for each task."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    x_train, x_test = (features(backbone, data.images, device) for data in (train, test))
    # 1 if the features point in all directions, 0 if all in the same one
    spread = std_of_l2_normalized(torch.from_numpy(x_test)).item() * math.sqrt(x_test.shape[1])
    scores = {"spread": spread}
    for task in TASKS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        with threadpool_limits(1):  # each worker has a core
            classifier.fit(x_train, getattr(train, task).numpy())
        scores[task] = 100 * float(classifier.score(x_test, getattr(test, task).numpy()))
    return scores


def run_cell(method: str, seed: int, settings: Settings, device: str, out: Path) -> None:
    """Pretrain and probe once, and write the result to a file of its own."""
    if device == "cpu":
        torch.set_num_threads(1)
    train, test = (_data(n, train) for n, train in ((settings.train_images, True), (settings.test_images, False)))
    backbone, viewmaker, figures = pretrain(method, seed, settings, train.images, device, _count_epoch)
    if viewmaker is not None:
        viewaug.save(viewmaker, _viewmaker_file(out, method, seed))
    cell = {"method": method, "seed": seed, **probe(backbone, train, test, device), **figures}
    _write_json(_cell_file(out, method, seed), {"settings": asdict(settings), "cell": cell})


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Method x task: mean and standard deviation over the seeds."""
    seeds = len({cell["seed"] for cell in cells})
    lines = [
        "Linear probe accuracy in %, the loss at the end, and the spread of the features: "
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
    figure = view_grid(
        x, views, labels=[method.replace("+", "+\n") for method in methods] if len(methods) > 1 else None
    )
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
        help=f"{', '.join(METHODS)}; original for learned views by the papers' protocol; or learned views of another "
        "perturbation, such as colour or spectral+colour+warp. With another objective than SimCLR's: byol:learned",
    )
    parser.add_argument("--seeds", type=positive(int), default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--epochs", type=positive(int), default=defaults.epochs, help="epochs of pretraining")
    parser.add_argument(
        "--budget", type=positive(float), default=defaults.budget, help="mean absolute change of a pixel"
    )
    parser.add_argument(
        "--generator", choices=("fast", "reference"), default=defaults.generator, help="network that makes the views"
    )
    parser.add_argument("--images", type=positive(int), default=defaults.train_images, help="training images")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--workers", type=positive(int), default=None, help="processes; default 2 on a CPU, else 1")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results, figure and viewmakers")
    options = parser.parse_args(arguments)
    if options.images < defaults.batch:
        parser.error(f"argument --images: expected at least one batch of {defaults.batch}, but got {options.images}")
    options.methods = list(dict.fromkeys(options.methods))
    for method in options.methods:
        name, views = parse(method)
        if method != "untrained" and views == "untrained":
            parser.error(f"argument --methods: untrained has no objective, but got {method}")
        if name not in OBJECTIVES:
            parser.error(f"argument --methods: expected an objective of {', '.join(OBJECTIVES)}, but got {name}")
        try:
            views in FIXED or viewaug.Viewmaker(perturbation=perturbation(views))
        except (TypeError, ValueError) as error:
            parser.error(f"argument --methods: {error}")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"argument --device: {error}")

    settings = Settings(
        epochs=options.epochs, budget=options.budget, generator=options.generator, train_images=options.images
    )
    workers = options.workers or (min(2, os.cpu_count() or 1) if options.device == "cpu" else 1)
    wanted = [(method, seed) for seed in range(options.seeds) for method in options.methods]
    found = {cell: _read_json(_cell_file(options.out, *cell)) for cell in wanted}
    if any(result is not None and result["settings"] != asdict(settings) for result in found.values()):
        parser.error(f"argument --out: {options.out} holds results of other settings; choose another folder")
    missing = [cell for cell, result in found.items() if result is None]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} cells are in {options.out} already.")
    _run_all(missing, settings, options.device, options.out, workers)

    cells = [_read_json(_cell_file(options.out, *cell))["cell"] for cell in wanted]  # type: ignore[index]
    packages = ("torch", "kornia", "lightly", "scikit-learn", "scikit-image")
    versions = {"python": platform.python_version(), "viewaug": viewaug.__version__}
    versions |= {package: version(package) for package in packages}
    text = table(cells)
    _write_json(
        options.out / "results.json",
        {
            "settings": asdict(settings),
            "seeds": options.seeds,
            "device": options.device,
            "versions": versions,
            "cells": cells,
        },
    )
    files = [options.out / "results.json"]
    learned = [method for method in options.methods if parse(method)[1] not in FIXED]
    if learned:
        files += [draw(options.out, learned), _viewmaker_file(options.out, learned[0], 0)]
    print(f"\n{text}\n", *files, sep="\n")


def _run_all(cells: Sequence[tuple[str, int]], settings: Settings, device: str, out: Path, workers: int) -> None:
    """Run cells side by side, with one progress bar over all their epochs."""
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    epochs = context.Value("i", 0)
    total = settings.epochs * sum(method != "untrained" for method, _ in cells)
    with (
        ProcessPoolExecutor(workers, context, _start_worker, (epochs,)) as pool,
        tqdm(total=total, unit="epoch", desc=f"{len(cells)} cells") as bar,
    ):
        running = {pool.submit(run_cell, method, seed, settings, device, out) for method, seed in cells}
        try:
            while running:
                done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                if epochs.value > bar.n:
                    bar.update(epochs.value - bar.n)
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_epochs: Any = None  # a worker's share in the count of finished epochs


def _start_worker(epochs: Any) -> None:
    global _epochs
    _epochs = epochs


def _count_epoch() -> None:
    if _epochs is not None:
        with _epochs.get_lock():
            _epochs.value += 1


@functools.cache
def _data(n: int, train: bool) -> PhotoDigits:
    return photo_digits(n, train=train)


def _cell_file(out: Path, method: str, seed: int) -> Path:
    return out / "cells" / f"{method.replace(':', '-')}-{seed}.json"


def _viewmaker_file(out: Path, method: str, seed: int) -> Path:
    name = "viewmaker" if method == "learned" else method.replace(":", "-")
    return out / f"{name}-{seed}.safetensors"


def _read_json(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.exists() else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
