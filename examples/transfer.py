"""Transfer: is a viewmaker that was trained elsewhere, and is frozen, as good as one that is trained along?

Each pair is a viewmaker of the package and data that it never saw. On these, random views, learned ones of the same
kind, and those of the trained viewmaker, frozen and as where to begin learning, are compared in equal time.

python -m viewaug.examples.transfer PAIR [--data PATH] [--digits PATH] --out DIR
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from viewaug.examples import demo
from viewaug.examples.multitask.backgrounds import backgrounds
from viewaug.examples.multitask.noises import noises
from viewaug.examples.multitask.overlays import Overlaid
from viewaug.examples.npz import write_arrays
from viewaug.examples.trained import BATCH, LENGTH, RATE, RECIPES, spectrograms
from viewaug.examples.when import paired

from viewaug._markdown import markdown_table
from viewaug.commands._arguments import positive
from viewaug.comparison import Comparison, compare
from viewaug.comparison.grid import write_json

RESULTS = Path(__file__).parent / "results" / "transfer"
SEEDS, STEPS = 5, 200  # of the cheapest views
DIFFERENCES = (
    ("frozen", "learned"),
    ("frozen", "noise"),
    ("frozen", "region"),
    ("warm", "learned"),
    ("learned", "noise"),
)


class Pair(NamedTuple):
    """A viewmaker of the package, and data that it never saw."""

    source: str
    title: str
    arrays: Callable[[str, str], Mapping[str, Any]]
    data: str  # the default

    @property
    def methods(self) -> dict[str, str]:
        """What is compared, by short names."""
        trained = {name: f"{name}:{self.source}" for name in ("frozen", "warm")}
        return {"noise": "noise", "region": "region", "learned": RECIPES[self.source].method, **trained}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare on one pair, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("--data", help="cifar10 or an .npz of photographs; synthetic or an .npz of ESC-10")
    parser.add_argument("--digits", default="mnist", help="mnist or an .npz of it (default: mnist)")
    parser.add_argument("--seeds", type=positive(int), default=SEEDS, help=f"runs of each (default {SEEDS})")
    parser.add_argument("--steps", type=positive(int), default=STEPS, help=f"of the cheapest views (default {STEPS})")
    parser.add_argument("--workers", type=positive(int), default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("transfer"), help="folder for data and results")
    options = parser.parse_args(arguments)
    pair, out = PAIRS[options.pair], options.out / options.pair
    try:
        write_arrays(out / "arrays", pair.arrays(options.data or pair.data, options.digits))
        comparison = compare(
            out / "arrays",
            methods=list(pair.methods.values()),
            batch=BATCH,
            seeds=options.seeds,
            trials=1,
            steps=options.steps,
            workers=options.workers,
            out=out,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    write_json(out / "results.json", comparison.to_json())
    print(f"\n{comparison.table}\n\n{comparison.verdict}\n\n{comparison.plan.table()}")


def overlaid(photographs: str, digits: str) -> dict[str, Any]:
    """Return photographs on which a digit is pasted four times, as in the Feature Dropout paper."""
    parts = []
    for train, count in ((True, demo.TRAIN), (False, demo.TEST)):
        pasted = Overlaid(backgrounds(photographs, train=train, count=count), "digits", train=train, digits=digits)
        parts.append(pasted.__getitems__(range(len(pasted))))
    x = torch.cat([part["views"][0] for part in parts])
    photo, digit = (torch.cat([part[name] for part in parts]) for name in ("background", "overlay"))
    split = torch.arange(len(x)) >= demo.TRAIN
    return {"x": x, "photo": photo, "digit": digit, "split": split, "value_range": torch.tensor([0.0, 1.0])}


def sounds(source: str, _: str) -> dict[str, Any]:
    """Return log-mel spectrograms of the loudest half seconds of clips of `source`, as of :func:`noises`, by clip."""
    waveforms, labels, clips = [], [], []
    for train in (True, False):
        found = noises(source, train=train, sample_rate=RATE)
        cut = [_loudest(clip) for clip in found.clips]
        waveforms.append(torch.cat(cut)[:, None])
        labels += [label for label, parts in zip(found.label.tolist(), cut, strict=True) for _ in parts]
        clips += [2 * place + train for place, parts in enumerate(cut) for _ in parts]
    x = spectrograms(*waveforms)
    split = torch.arange(len(x)) >= len(waveforms[0])
    return {"x": x, "sound": torch.tensor(labels), "group": torch.tensor(clips), "split": split}


def _loudest(clip: Tensor, count: int = 6) -> Tensor:
    """Return the loudest half seconds of a clip, of which the next one begins before the last one ends."""
    windows = clip.unfold(0, LENGTH, LENGTH // 2)
    return windows[windows.square().mean(1).topk(min(count, len(windows))).indices.sort().values]


PAIRS = {
    "photographs-digits": Pair("photographs", "photographs with a digit", lambda *_: demo.digits(), ""),
    "digits-cifar10": Pair("digits-on-photographs", "CIFAR-10 with digits of MNIST", overlaid, "cifar10"),
    "speech-sounds": Pair("log-mel", "sounds of ESC-10", sounds, "synthetic"),
}


def found() -> dict[str, Comparison]:
    """Read the committed results, by pair."""
    return {name: Comparison.read(RESULTS / name / "results.json") for name in PAIRS}


def _column(name: str) -> str:
    return f"`{PAIRS[name].source}`, {PAIRS[name].title}"


def scores(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, list[float]]]:
    """Return the mean test accuracy over labels of each run, by pair and short name of the views."""
    return {
        name: {
            short: [statistics.mean(run["test"].values()) for run in comparison.runs("residual", method)]
            for short, method in PAIRS[name].methods.items()
        }
        for name, comparison in comparisons.items()
    }


def differences(comparisons: Mapping[str, Comparison]) -> str:
    """Return differences paired by seed, in points, with 95 % intervals."""
    by_pair = scores(comparisons)
    rows = [
        [f"`{one}` less `{other}`", *(paired(each[one], each[other]) for each in by_pair.values())]
        for one, other in DIFFERENCES
    ]
    return markdown_table(["views", *map(_column, by_pair)], rows)


def prices(comparisons: Mapping[str, Comparison]) -> str:
    """Return the price of a step in milliseconds, as a multiple of noise's, and how many steps there were."""
    rows = []
    for short in ("noise", "region", "learned", "frozen", "warm"):
        row = [f"`{short}`"]
        for name, comparison in comparisons.items():
            method, plan = PAIRS[name].methods[short], comparison.plan
            price, noise = (plan.prices["residual"][kind] for kind in (method, "noise"))
            row.append(f"{1000 * price:.0f} ms, {price / noise:.2f}, {plan.steps('residual', method)} steps")
        rows.append(row)
    return markdown_table(["views", *map(_column, comparisons)], rows)


if __name__ == "__main__":
    main()
