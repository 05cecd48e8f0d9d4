"""RandBits: how shared random bits suppress digits, and whether views lift that (Chen, Luo & Li, NeurIPS 2021, sec. 5).

Beside each image of a digit stand channels of random bits, the same in both views: an easy feature that tells images
apart as well as the digit does. The more bits, the less of the digit an encoder learns.

python -m viewaug.examples.random_bits [--data mnist.npz] [--out DIR]
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from viewaug.examples.mnist import read_mnist

import viewaug
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.comparison.grid import default_workers, run_grid, write_json
from viewaug.comparison.handmade import noise_views
from viewaug.comparison.objectives import objective

METHODS = ("untrained", "none", "noise", "handmade", "learned", "handmade+noise", "handmade+learned")
BITS = (0, 4, 8, 12, 16)
TRAIN, TEST = 10_000, 5000  # of MNIST


@dataclass(frozen=True)
class Settings:
    """What a result depends on, the cell aside."""

    data: str = "digits"
    steps: int = 400
    batch: int = 256
    budget: float = 0.1
    temperature: float = 0.1
    lr: float = 1e-3
    viewmaker_lr: float = 3e-3


def with_bits(images: Tensor, bits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Append a channel of zeros or of ones for each of `bits` random bits, and return these, ``(B, bits)``, as well."""
    values = torch.randint(2, (len(images), bits), generator=generator)
    return torch.cat([images, values[..., None, None].expand(-1, -1, *images.shape[2:]).to(images)], 1), values


def encoder(channels: int, width: int = 16) -> nn.Sequential:
    """Three convolutions, to ``4 * width`` features."""
    layers: list[nn.Module] = []
    for k, stride in ((1, 1), (2, 2), (4, 2)):
        layers += [nn.Conv2d(channels, k * width, 3, stride, 1, bias=False), nn.BatchNorm2d(k * width), nn.ReLU()]
        channels = k * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def views_of(
    method: str, settings: Settings, channels: int, size: int
) -> tuple[Callable[[Tensor], list[Tensor]], viewaug.Viewmaker | None]:
    """Return what makes two views of a batch, and the viewmaker if they are learned."""
    parts = method.split("+")
    viewmaker = viewaug.Viewmaker(channels, budget=settings.budget) if "learned" in parts else None
    augmentation = viewaug.AdversarialAugmentation(viewmaker) if viewmaker is not None else None
    # As there, the bits are not augmented by hand: a crop of a constant channel is the same again.
    crop = K.RandomResizedCrop((size, size), scale=(0.4, 1.0))

    def make(x: Tensor) -> list[Tensor]:
        pair = [torch.cat([crop(x[:, :1]), x[:, 1:]], 1) if "handmade" in parts else x for _ in range(2)]
        if "noise" in parts:
            return [noise_views(v, settings.budget) for v in pair]
        if augmentation is not None:
            return list(augmentation(torch.cat(pair)).chunk(2))
        return pair

    return make, viewmaker


def run_cell(method: str, bits: int, seed: int, settings: Settings) -> dict[str, Any]:
    """Pretrain with SimCLR, and probe the frozen features for the digit and for the bits."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    (images, labels), test = digits(settings.data)
    backbone = encoder(1 + bits)
    model = objective("simclr", backbone, 64, settings.temperature)
    make, viewmaker = views_of(method, settings, 1 + bits, images.shape[-1])
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    if viewmaker is not None:
        optimizer = viewaug.JointOptimizer(optimizer, viewmaker.parameters(), lr=settings.viewmaker_lr)
    loss = torch.tensor(torch.nan)
    for _ in range(settings.steps if method != "untrained" else 0):
        index = torch.randint(len(images), (settings.batch,), generator=generator)
        x, _ = with_bits(images[index], bits, generator)
        loss = model(*make(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    backbone.eval()
    sets = []
    for part, label in ((images, labels), test):
        x, values = with_bits(part, bits, generator)
        with torch.no_grad():
            features = torch.cat([backbone(chunk) for chunk in x.split(1000)]).numpy()
        sets.append((features, label.numpy(), values.numpy()))
    (f_train, y_train, b_train), (f_test, y_test, b_test) = sets
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(f_train, y_train)
    cell: dict[str, Any] = {"method": method, "bits": bits, "seed": seed}
    if method != "untrained":
        cell["loss"] = loss.item()
    cell["digit"] = 100 * float(probe.score(f_test, y_test))
    if bits:
        linear = make_pipeline(StandardScaler(), RidgeClassifier())
        found = [(linear.fit(f_train, b_train[:, k]).score(f_test, b_test[:, k])) for k in range(bits)]
        cell["bit"] = 100 * statistics.mean(found)
    return cell


@functools.cache
def digits(source: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images, ``(N, 1, H, W)`` in [0, 1], and labels.

    Args:
        source: "digits", the 8 x 8 ones of scikit-learn in two halves, or an .npz file of MNIST with ``x_train``,
            ``y_train``, ``x_test`` and ``y_test``, of which 10,000 and 5,000 are used.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    if source == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels, labels = torch.from_numpy(data.images / 16), torch.from_numpy(data.target)
        half = len(pixels) // 2
        parts = [(pixels[:half], labels[:half]), (pixels[half:], labels[half:])]
    else:
        read = ((*read_mnist(source, train=train), count) for train, count in ((True, TRAIN), (False, TEST)))
        parts = [(pixels[:count].double() / 255, labels[:count]) for pixels, labels, count in read]
    train, test = ((x.float()[:, None], y.long()) for x, y in parts)
    return train, test


def table(cells: Sequence[dict[str, Any]], key: str = "digit") -> str:
    """Views x number of bits: mean and standard deviation over the seeds."""
    bits = sorted({cell["bits"] for cell in cells})
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        row = [method]
        for n in bits:
            values = [c[key] for c in cells if (c["method"], c["bits"]) == (method, n) and key in c]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            row.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        rows.append(row)
    return markdown_table(["views", *(f"{n} bits" for n in bits)], rows)


def draw(cells: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the accuracy on the digit against the number of bits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), layout="constrained")
    ax = figure.subplots()
    bits = sorted({cell["bits"] for cell in cells})
    for method in dict.fromkeys(cell["method"] for cell in cells):
        groups = [[c["digit"] for c in cells if (c["method"], c["bits"]) == (method, n)] for n in bits]
        spread = [statistics.stdev(group) if len(group) > 1 else 0 for group in groups]
        ax.errorbar(bits, [statistics.mean(group) for group in groups], spread, label=method, capsize=2)
    ax.axhline(10, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel="random bits that the views share", ylabel="probe accuracy on the digit, %", ylim=(0, 100))
    ax.legend(fontsize=7)
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=defaults.data, help="an .npz of MNIST; default: scikit-learn's digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--bits", nargs="+", type=int, choices=range(65), metavar="N", default=BITS)
    parser.add_argument("--seeds", type=positive(int), default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--steps", type=positive(int), default=defaults.steps, help="of pretraining")
    parser.add_argument(
        "--budget", type=positive(float), default=defaults.budget, help="mean absolute change of a value"
    )
    parser.add_argument("--temperature", type=positive(float), default=defaults.temperature)
    parser.add_argument("--workers", type=positive(int), default=default_workers(), help="processes")
    parser.add_argument("--out", type=Path, default=Path("random_bits"), help="folder for the results")
    options = parser.parse_args(arguments)
    try:
        digits(options.data)
    except (FileNotFoundError, ValueError) as error:
        parser.error(f"argument --data: {error}")
    settings = Settings(options.data, options.steps, budget=options.budget, temperature=options.temperature)
    cells = {
        f"{method}-{bits}-{seed}": (method, bits, seed, settings)
        for method in dict.fromkeys(options.methods)
        for bits in sorted(set(options.bits))
        for seed in range(options.seeds)
    }
    # Where a file lies does not matter to the results.
    kept = asdict(settings) | {"data": Path(options.data).name}
    try:
        found = list(run_grid(run_cell, cells, options.out, kept, workers=options.workers).values())
    except FileExistsError as error:
        parser.error(f"argument --out: {error}")
    write_json(options.out / "results.json", {"settings": kept, "cells": found})
    draw(found, options.out / "digit.png")
    print(f"\nProbe accuracy on the digit, %\n\n{table(found)}\n\non the bits, %\n\n{table(found, 'bit')}\n")
    print(options.out / "results.json", options.out / "digit.png", sep="\n")


if __name__ == "__main__":
    main()
