"""Say what a saved viewmaker has learned: what its views do, in units, beside its random twin's, as a report.

The data are an .npz file with an array x (N, C, *spatial), or a folder with x.npy, as `viewaug compare` takes them; or
a file or a folder of images, of .wav, .flac or .ogg, or of .npy arrays.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

import viewaug
from viewaug._files import replacing
from viewaug.commands._arguments import positive, seed
from viewaug.commands._signals import read_inputs

if TYPE_CHECKING:
    from viewaug.explanation import Explanation

_DRAWN = 4  # magnitudes whose ends are drawn


def parser_of(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return the arguments of a command that looks at views of some inputs."""
    parser = argparse.ArgumentParser(
        prog=f"viewaug {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="file that viewaug.save wrote")
    parser.add_argument("--data", type=Path, required=True, help="inputs: a file or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--count", type=positive(int), default=64, help="inputs, at most (default 64)")
    parser.add_argument("--views", type=positive(int), default=16, help="views of each, at least 2 (default 16)")
    parser.add_argument("--size", type=positive(int), help="side of images, or length of sounds; default: the smallest")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise (default 0)")
    return parser


def load_and_read(options: argparse.Namespace) -> tuple[viewaug.Viewmaker, Tensor]:
    """Return the viewmaker and the inputs that the arguments name."""
    viewmaker = viewaug.load(options.checkpoint).float()
    return viewmaker, read_inputs(options.data, viewmaker, options.count, options.size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = parser_of("explain", __doc__)
    options = parser.parse_args(arguments)
    try:
        explanation = viewaug.explain(*load_and_read(options), views=options.views, seed=options.seed)
        files = write_explanation(explanation, options.out)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f"viewaug explain: {error}\n")
    print(*explanation.words, "", *files, sep="\n")


def write_explanation(explanation: "Explanation", out: Path) -> list[Path]:
    """Write ``report.md``, ``results.json`` and the figures, and return their paths."""
    inputs, views = next(iter(explanation.learned.values())).shape
    figures = {
        "distributions": (explanation.plot(), "Distributions, those that are most apart first."),
        "place": (explanation.plot_place(), "The mean size of the change at each place."),
    }
    for name in (explanation.departed or list(explanation.apart))[:_DRAWN]:
        stem = "ends-" + re.sub(r"\W+", "-", name.partition(" [")[0]).strip("-").lower()
        ends = f"{name}: views at the lower end, left, and at the upper one, right; the change is not amplified."
        figures[stem] = (explanation.examples(name), ends)
    text = [
        "# What was learned",
        "\n".join(f"- {sentence}" for sentence in explanation.words),
        f"{views} views of each of {inputs} inputs, and as many of the random twin, which is the same viewmaker "
        "without anything learned. Of each magnitude there are the mean and the 5th and 95th percentile; **apart** is "
        "the largest difference of the two distribution functions, from 0 to 1; **by the input** the share of the "
        "variance of what was learned that lies between inputs, not between views of one. Magnitudes of perturbations "
        "are those before a budget blends them with the input; `view` is what comes out.",
        explanation.table,
        *(f"{sentence}\n\n![{name}]({name}.png)" for name, (_, sentence) in figures.items()),
    ]
    files = [out / "report.md", out / "results.json", *(out / f"{name}.png" for name in figures)]
    for name, (figure, _) in figures.items():
        with replacing(out / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110)
    with replacing(out / "results.json") as temporary:
        temporary.write_text(json.dumps(explanation.to_json(), indent=1) + "\n", encoding="utf-8")
    with replacing(out / "report.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return files
