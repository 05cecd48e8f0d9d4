"""RandBits: how shared random bits suppress digits, and whether views lift that (Chen, Luo & Li, NeurIPS 2021, sec. 5).

Beside each image of a digit stand channels of random bits, an easy feature that tells images apart as well as the digit
does. The more bits, the less of the digit an encoder learns. For each number of bits this is a call of viewaug.compare.

python -m viewaug.examples.random_bits [--data mnist.npz] [--out DIR]
"""

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from viewaug.examples.mnist import read_mnist
from viewaug.examples.npz import write_arrays

from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.comparison import Comparison, compare
from viewaug.comparison.encoders import Pool
from viewaug.comparison.grid import write_json

OWN = {"handmade": "viewaug.examples.random_bits:crop"}
METHODS = ("untrained", "none", "noise", "handmade", "learned", "handmade/noise", "handmade/learned")
BITS = (0, 4, 8, 12, 16)
TRAIN, TEST = 10_000, 5000  # of MNIST
ENCODER = "viewaug.examples.random_bits:encoder"


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
    return nn.Sequential(*layers, Pool())


def crop(x: Tensor) -> Tensor:
    """Crop the digit; the bits are not augmented, as there: a crop of a constant channel is the same again."""
    crops = K.RandomResizedCrop(tuple(x.shape[2:]), scale=(0.4, 1.0))
    return torch.cat([crops(x[:, :1]), x[:, 1:]], 1)


def write_data(folder: Path, source: str, bits: int) -> None:
    """Write the arrays of one number of bits, which each image has of its own."""
    (train, labels), (test, test_labels) = digits(source)
    x, values = with_bits(torch.cat([train, test]), bits, torch.Generator().manual_seed(0))
    arrays = {"x": x, "digit": torch.cat([labels, test_labels]), "split": torch.arange(len(x)) >= len(train)}
    arrays |= {"value_range": torch.tensor([0.0, 1.0])}
    arrays |= {f"bit{k:02}": value for k, value in enumerate(values.unbind(1))}
    write_arrays(folder, arrays)


def cells_of(comparison: Comparison, bits: int) -> list[dict[str, Any]]:
    """Return what a table needs of each run."""
    cells = []
    for name in comparison.methods:
        for run in comparison.runs(ENCODER, name):
            cell = {"method": name, "bits": bits, "seed": run["seed"], "digit": run["test"]["digit"]}
            if run["loss"] is not None:
                cell["loss"] = run["loss"]
            if bits:
                cell["bit"] = statistics.mean(value for label, value in run["test"].items() if label != "digit")
            cells.append(cell)
    return cells


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="an .npz of MNIST; default: scikit-learn's digits")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=METHODS,
        help="of viewaug compare, and handmade, crops of the digit; a strength may follow, as in noise@0.1",
    )
    parser.add_argument("--bits", nargs="+", type=int, choices=range(65), metavar="N", default=BITS)
    parser.add_argument("--seeds", type=positive(int), default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--trials", type=positive(int), default=1, help="strengths to try (default 1: as they are)")
    parser.add_argument("--steps", type=positive(int), default=400, help="of pretraining with the cheapest views")
    parser.add_argument("--workers", type=positive(int), default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("random_bits"), help="folder for the results")
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    try:
        for bits in sorted(set(options.bits)):
            folder = options.out / f"{bits}-bits"
            write_data(folder / "arrays", options.data, bits)
            comparison = compare(
                folder / "arrays",
                methods=options.methods,
                own=OWN,
                encoders=[ENCODER],
                batch=256,
                seeds=options.seeds,
                trials=options.trials,
                steps=options.steps,
                workers=options.workers,
                out=folder,
            )
            found += cells_of(comparison, bits)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found.sort(key=lambda cell: list(options.methods).index(cell["method"]))
    settings = {"data": Path(options.data).name, "steps": options.steps, "batch": 256}
    write_json(options.out / "results.json", {"settings": settings, "cells": found})
    draw(found, options.out / "digit.png")
    print(f"\nProbe accuracy on the digit, %\n\n{table(found)}\n\non the bits, %\n\n{table(found, 'bit')}\n")
    print(options.out / "results.json", options.out / "digit.png", sep="\n")


if __name__ == "__main__":
    main()
