"""Which views do these data need? A quick look at three real data sets, whose answers differ.

They are photographs with a digit pasted on, photographs with a faint digit and a shape, and a smartwatch's readings. A
small encoder is pretrained with five kinds of views of each, one run of each kind, and linear probes on its frozen
features tell how much it knows of every label. Beside the numbers stand those of five other runs, which the package
brings, and the verdicts that they bear. It needs no download and no GPU. Killed and started again with the same --out,
it goes on where it was. All kinds of views, more runs and two encoders: viewaug compare --data OUT/smartwatch/arrays.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from viewaug.examples.npz import write_arrays
from viewaug.examples.photo_digits import photo_digits
from viewaug.examples.smartwatch import smartwatch
from viewaug.examples.two_overlays import two_overlays

from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.comparison import Comparison
from viewaug.comparison.arrays import fingerprint, read_arrays
from viewaug.comparison.cells import Cell, Settings, Source, kind_of, run_cell
from viewaug.comparison.grid import default_workers, run_grid
from viewaug.comparison.verdict import with_interval
from viewaug.comparison.views import parse

METHODS = ("none", "region", "mixup", "expert", "learned:blend+additive")
TRAIN, TEST = 4096, 2000  # images
RESULTS = Path(__file__).parent / "results" / "demo"


class DataSet(NamedTuple):
    """What it shows, and the arrays that ``viewaug compare`` takes."""

    title: str
    arrays: Callable[[], Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the arrays, run each kind of views once, and print and draw what came out beside what is known."""
    parser = argparse.ArgumentParser(
        prog="viewaug demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="default: all three")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, help=f"of those in the committed tables; default: {' '.join(METHODS)}"
    )
    parser.add_argument("--arrays", action="store_true", help="only write the arrays, for viewaug compare")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for data, results and pictures")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2 on a CPU, else 1")
    options = parser.parse_args(arguments)
    known = {name: Comparison.read(RESULTS / name / "results.json") for name in options.data}
    for comparison in known.values():
        strange = sorted(set(options.methods) - set(comparison.methods))
        if strange:
            parser.error(f"argument --methods: {strange[0]!r} is none of {', '.join(comparison.methods)}")
    for name in options.data:
        write_data(options.out / name, DATA_SETS[name].arrays())
    if options.arrays:
        return
    try:
        found = run(known, options.methods, options.out, options.device, options.workers)
    except OSError as error:  # of another run, or of a full disk
        parser.error(f"argument --out: {error}")
    text = "\n\n".join(report(DATA_SETS[name].title, known[name], found[name]) for name in options.data)
    with replacing(options.out / "report.md") as temporary:
        temporary.write_text(f"{text}\n\n![Accuracy](accuracy.png)\n\n![Views of each kind](views.png)\n", "utf-8")
    print(f"\n{text}\n")
    from viewaug.examples.demo_figures import accuracy_figure, views_figure

    titles = {name: DATA_SETS[name].title for name in options.data}
    figures = {"accuracy": accuracy_figure(titles, known, found), "views": views_figure(titles, found, options.out)}
    for name, figure in figures.items():
        with replacing(options.out / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110)
        print(options.out / f"{name}.png")


def run(
    known: Mapping[str, Comparison], methods: Sequence[str], out: Path, device: str = "cpu", workers: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return a run of each method on each data set, with a seed that the known results do not have.

    Strengths, prices and time are those of the known results, so that the steps are as many on any machine.
    """
    cells, data = {}, {}
    for name, comparison in known.items():
        place, encoder = out / name / "arrays", comparison.encoders[0]
        arrays, s = read_arrays(place), comparison.settings
        settings = Settings(**{field.name: s[field.name] for field in fields(Settings)})
        data[name] = fingerprint(place)
        for method in methods:
            runs = comparison.runs(encoder, method)
            steps = comparison.plan.steps(encoder, method)
            cell = Cell(parse(method, kind_of(arrays)), runs[0]["strength"], encoder, len(runs), steps, final=True)
            source = Source(place, tuple(arrays.labels))
            label = f"{name}, {method}".replace(":", "=")
            cells[label] = (cell, source, settings, device, out / name, False)
    identity = {"data": data, "steps": {name: cell.steps for name, (cell, *_) in cells.items()}}
    found = run_grid(run_cell, cells, out, identity, workers=workers or default_workers(device), title="demo")
    return {name: [cell for label, cell in found.items() if label.partition(",")[0] == name] for name in known}


def report(title: str, known: Comparison, cells: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of a run of each kind of views beside those that are known, and what these say."""
    encoder, labels = known.encoders[0], list(cells[0]["test"])
    rows = []
    for cell in cells:
        runs = known.runs(encoder, cell["method"])
        means = [statistics.mean(run["test"].values()) for run in [cell, *runs]]
        each = [f"{cell['test'][label]:.1f} ({with_interval([r['test'][label] for r in runs])})" for label in labels]
        rows.append([cell["method"], *each, f"{means[0]:.1f} ({with_interval(means[1:])})"])
    table = markdown_table(["views", *labels, "mean"], rows)
    count = len(known.runs(encoder, cells[0]["method"]))
    verdict = "\n".join(f"- {line}" for line in known.verdict.splitlines())
    return (
        f"## {title[0].upper()}{title[1:]}\n\n{table}\n\n"
        f"Accuracy of linear probes in %: of this run, and in parentheses of {count} others.\n\n"
        f"Of all kinds of views, by the others:\n\n{verdict}"
    )


def write_data(out: Path, arrays: Mapping[str, Any]) -> None:
    """Write the arrays to compare on; of images with masks, those for testing once more, for ``viewaug diagnose``."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    mask = arrays.pop("mask", None)
    write_arrays(out / "arrays", arrays)
    if mask is not None:
        test = arrays["split"]
        tested = {name: arrays[name][test] for name in arrays if name not in ("split", "value_range")}
        with replacing(out / "data.npz") as temporary:
            np.savez_compressed(temporary, mask=mask[test], **tested)


def digits() -> dict[str, Any]:
    """Return photographs with a digit."""
    both = [photo_digits(count, train=train) for count, train in ((TRAIN, True), (TEST, False))]
    joined = {name: torch.cat([getattr(part, name) for part in both]) for name in both[0]._fields}
    return _split({"x": joined.pop("images"), **joined})


def overlays() -> dict[str, Any]:
    """Return photographs with a digit and a shape."""
    both = [two_overlays(count, train=train) for count, train in ((TRAIN, True), (TEST, False))]
    return _split({name: torch.cat([part[name] for part in both]) for name in both[0]})


def _split(images: dict[str, Any]) -> dict[str, Any]:
    return images | {"split": torch.arange(len(images["x"])) >= TRAIN, "value_range": torch.tensor([0.0, 1.0])}


DATA_SETS = {
    "digits": DataSet("photographs with a digit", digits),
    "overlays": DataSet("photographs with a faint digit and a shape", overlays),
    "smartwatch": DataSet("a smartwatch's readings", smartwatch),
}

if __name__ == "__main__":
    main()
