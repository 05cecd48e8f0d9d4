"""Views that spare a label, or attack it, and a loss of the viewmaker's own, on photographs with digits.

One scorer of the digit, trained on one half of the training images, steers the viewmaker; another, of another
architecture, trained on the other half, says on test images in how many views the digit is still there, of those
that it has right when clean. A run that was killed goes on where it was.

python -m viewaug.examples.steering --out DIR
"""

import argparse
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightly.loss import LeJEPALoss, NTXentLoss, VICRegLoss
from lightly.models.modules import heads
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from tqdm import tqdm
from viewaug.examples.photo_digits import PhotoDigits, photo_digits

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker, frozen_call
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.grid import read_json, write_json
from viewaug.comparison.schedules import warmed_cosine
from viewaug.comparison.verdict import with_interval
from viewaug.probes import Probe

TRAIN, TEST, BATCH = 3276, 1000, 64
BUDGET, WEIGHT = 0.07, 16.0
CELLS = (
    *(("simclr", views) for views in ("untargeted", "spared", "targeted")),
    *((loss, views) for loss in ("vicreg", "lejepa") for views in ("random", "reversed", "own loss")),
)
WHO = ("scorer", "judge")
Cell = tuple[str, str]  # the loss, and the views
Criterion = Callable[[Tensor, Tensor], Tensor]


def criterion(name: str) -> Criterion:
    """Return lightly's loss of two views' projections."""
    if name == "lejepa":
        lejepa = LeJEPALoss(sigreg_num_vectors=256)
        return lambda one, two: lejepa(local_proj=one[None], global_proj=two[None])
    return {"simclr": NTXentLoss(0.1), "vicreg": VICRegLoss()}[name]


def batches(steps: int, seed: int, part: slice, batch: int) -> Iterator[Tensor]:
    """Draw places in a part of the training images."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(part.start, part.stop, (batch,), generator=generator)


@functools.cache
def data(train: bool) -> PhotoDigits:
    """Return the images."""
    return photo_digits(TRAIN if train else TEST, train=train)


def scorer(architecture: str, part: slice, seed: int, steps: int, file: Path) -> nn.Module:
    """Train a classifier of the digit on a part of the training images, or read it.

    Half of the images are clean and half have noise, little or much: one that has seen clean images alone can be
    convinced by changes that another does not see.
    """
    torch.manual_seed(seed)
    encoder, features = build_encoder(architecture)
    net = nn.Sequential(encoder, nn.Linear(features, 10))
    if file.exists():
        load_model(net, file)
        return net.eval()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    noises = [Viewmaker(budget=budget, generator="random") for budget in (0.05, 0.15)]
    for places in batches(steps, seed, part, 2 * BATCH):
        clean, *others = data(True).images[places].split([BATCH, BATCH // 2, BATCH // 2])
        x = torch.cat([clean, *(noise(other) for noise, other in zip(noises, others, strict=True))])
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), data(True).digit[places]).backward()
        optimizer.step()
        schedule.step()
    with replacing(file) as temporary:
        save_model(net, str(temporary))
    return net.eval()


def pretrain(cell: Cell, steering: nn.Module, seed: int, steps: int) -> tuple[nn.Module, Viewmaker, float]:
    """Pretrain an encoder; return it, the viewmaker, and the mean loss of the last fifth."""
    loss, views = cell
    torch.manual_seed(seed)
    encoder, features = build_encoder("residual")
    head = heads.SimCLRProjectionHead if loss == "simclr" else heads.VICRegProjectionHead
    net, compare = nn.Sequential(encoder, head(features, 2 * features, 2 * features)), criterion(loss)
    viewmaker = Viewmaker(budget=BUDGET, generator="random" if views == "random" else "fast")
    keeps = {"spared": {"spare": steering}, "targeted": {"target": steering}}.get(views, {})
    augmentation = AdversarialAugmentation(viewmaker, **keeps, weight=WEIGHT)  # type: ignore[arg-type]
    base = torch.optim.SGD(net.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
    optimizer = JointOptimizer(base, viewmaker.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(steps))
    losses = []
    for places in batches(steps, seed, slice(0, TRAIN), BATCH):
        pair = torch.cat(augmentation.views(data(True).images[places]))
        if views == "own loss":  # the encoder lowers all of its loss, the viewmaker raises the alignment alone
            found = compare(*net(pair.detach()).chunk(2))
            total = found + nn.functional.mse_loss(*frozen_call(net, pair).chunk(2))
        else:
            total = found = compare(*net(pair).chunk(2))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        losses.append(found.item())
    return encoder.eval(), viewmaker, statistics.mean(losses[-(steps // 5) :])


@torch.no_grad()
def right(judge: nn.Module) -> Tensor:
    """Return of which test images a judge has the digit right."""
    return judge(data(False).images).argmax(1) == data(False).digit


@torch.no_grad()
def kept(judge: nn.Module, viewmaker: Viewmaker, seed: int) -> float:
    """Return in how many views of test images a judge has the digit right, of the images that it has right, in %."""
    known = right(judge)
    x, digit = data(False).images[known], data(False).digit[known]
    noise = viewmaker.draw_noise(x, torch.Generator().manual_seed(seed))
    return 100 * (judge(viewmaker(x, noise)).argmax(1) == digit).float().mean().item()


def run(cell: Cell, scorers: Sequence[nn.Module], seed: int, steps: int) -> dict[str, Any]:
    """Return the figures of one run."""
    encoder, viewmaker, found = pretrain(cell, scorers[0], seed, steps)
    train, test = ({"photo": part.photo, "digit": part.digit} for part in (data(True), data(False)))
    probe = Probe.fit(encoder, data(True).images, train)
    accuracy = {task: 100 * share for task, share in probe.accuracy(data(False).images, test).items()}
    digit = dict(zip(WHO, (kept(net, viewmaker, seed) for net in scorers), strict=True))
    hard = found / math.log(2 * BATCH - 1) if cell[0] == "simclr" else None
    return {"cell": cell, "seed": seed, "loss": found, "difficulty": hard, **accuracy, "kept": digit}


def table(results: Mapping[str, Any]) -> str:
    """Return the table: means with 95 % intervals over seeds."""
    rows = []
    for cell in dict.fromkeys(tuple(run["cell"]) for run in results["cells"]):
        runs = [run for run in results["cells"] if tuple(run["cell"]) == cell]
        columns = [[run["kept"][who] for run in runs] for who in ("judge", "scorer")]
        columns += [[run[name] for run in runs] for name in ("photo", "digit")]
        each = statistics.mean(run["difficulty"] or run["loss"] for run in runs)
        rows.append([*cell, *map(with_interval, columns), f"{each:.2f}"])
    head = ["loss", "views", "digit kept", "for the scorer", "photo", "digit", "difficulty, or loss"]
    return markdown_table(head, rows, names=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m viewaug.examples.steering", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("steering"), help="folder for results; default steering")
    names = list(dict.fromkeys(loss for loss, _ in CELLS))
    parser.add_argument("--losses", nargs="+", choices=names, default=names, help="default: all")
    for name, default, text in (
        ("seeds", 5, "number of seeds, 0 to N-1"),
        ("steps", 250, "of pretraining"),
        ("scorer-steps", 400, "of training each scorer"),
    ):
        parser.add_argument(f"--{name}", type=positive(int), default=default, help=f"{text}; default {default}")
    options = parser.parse_args(arguments)
    settings = {"steps": options.steps, "scorer_steps": options.scorer_steps, "batch": BATCH}
    settings |= {"budget": BUDGET, "weight": WEIGHT}
    file = options.out / "results.json"
    results: dict[str, Any] = read_json(file) if file.exists() else {"settings": settings, "cells": []}
    if results["settings"] != settings:
        parser.error(f"argument --out: {file} is of {results['settings']}, not of {settings}")
    done = {(tuple(run["cell"]), run["seed"]) for run in results["cells"]}
    halves = (slice(0, TRAIN // 2), slice(TRAIN // 2, TRAIN))
    scorers = [
        scorer(architecture, part, seed, options.scorer_steps, options.out / f"{who}.safetensors")
        for seed, (who, architecture, part) in enumerate(zip(WHO, ("residual", "plain"), halves, strict=True))
    ]
    results["clean"] = {who: right(net).float().mean().item() for who, net in zip(WHO, scorers, strict=True)}
    wanted = itertools.product((cell for cell in CELLS if cell[0] in options.losses), range(options.seeds))
    missing = [each for each in wanted if each not in done]
    for cell, seed in tqdm(missing, unit="run"):
        results["cells"].append(run(cell, scorers, seed, options.steps))
        write_json(file, results)
    print(table(results))


if __name__ == "__main__":
    main()
