"""Which views do my data need? Pretrain a small encoder with each kind of views, and probe every label.

The data are an .npz file, or a folder of .npy files: x (N, C, *spatial); one or more labels by any name, integers from
0, or -1 for unknown; and if you like split ("train", "validation", "test", or 0 and 1), group (subjects or recordings,
kept apart) and value_range.
Everything ends in the folder --out: report.md first. Killed and started again, it goes on where it was.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from viewaug.commands._arguments import positive

_STARTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the table and the verdict, and write the report."""
    started = time.monotonic() if time.monotonic() - _STARTED > 1 else _STARTED
    parser = argparse.ArgumentParser(
        prog="viewaug compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="an .npz file, or a folder of .npy files")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="arrays that are labels; default: all that can be")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="none, noise, mask, channel-mask, region, mixup, crop; random, learned, or random:mask, "
        "learned:blend+additive, ... of any perturbations; expert or expert:simclr, :specaugment, :waveform, :sensors; "
        "hard or hard:mask, the hardest pair of four; frozen:NAME and warm:NAME, of a trained viewmaker, a file or one "
        "that `viewaug hub` lists, as it is or as a start; untrained and supervised, for reference. A strength may "
        "follow, noise@0.1, for which there are no trials; expert/learned is learned views on top of others. "
        "Default: what fits the data",
    )
    parser.add_argument(
        "--with",
        dest="own",
        action="append",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="a method of your own, a function from a batch to views of it; may be given more than once",
    )
    parser.add_argument(
        "--encoder",
        action="append",
        metavar="ENCODER",
        help="residual (default), plain, of images small or any of timm's, or MODULE:FUNCTION from a number of "
        "channels to a network; may be given more than once",
    )
    parser.add_argument("--encoders", type=int, choices=(1, 2), default=1, help="2: with a second encoder, plain, too")
    parser.add_argument(
        "--objective", default="simclr", help="simclr, ifm, byol, simsiam, vicreg, barlow, moco, instance"
    )
    parser.add_argument("--batch", type=positive(int), help="samples of a step; default 128, or less of small data")
    parser.add_argument("--labelled", type=positive(int), help="training samples that probes know; default all")
    parser.add_argument("--minutes", type=positive(float), default=30.0, help="for everything (default 30)")
    parser.add_argument("--steps", type=positive(int), help="instead, steps of each run with the cheapest views")
    parser.add_argument("--seeds", type=positive(int), default=5, help="runs of each (default 5)")
    parser.add_argument("--trials", type=positive(int), default=3, help="strengths to try, at most (default 3)")
    parser.add_argument("--probes", action="store_true", help="keep the first seed's probes, for viewaug diagnose")
    parser.add_argument("--estimate", action="store_true", help="measure prices, and say how long it would take")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2 on a CPU, else 1")
    options = parser.parse_args(arguments)
    encoders = options.encoder or ["residual"]
    if options.encoders == 2 and len(encoders) == 1:
        encoders.append("plain" if encoders[0] != "plain" else "residual")
    try:
        own = dict(_pair(text) for text in options.own)
        methods = None if options.methods is None else [*options.methods, *own]
        try:
            import torch

            from viewaug.comparison import compare
            from viewaug.comparison.report import write_report
        except ImportError as error:
            raise ImportError(f"{error}; pip install 'viewaug[compare]'") from error
        torch.empty(0, device=options.device)
        comparison = compare(
            options.data,
            options.labels,
            methods=methods,
            own=own,
            encoders=encoders,
            objective=options.objective,
            batch=options.batch,
            labelled=options.labelled,
            seeds=options.seeds,
            trials=options.trials,
            minutes=options.minutes,
            steps=options.steps,
            device=options.device,
            workers=options.workers,
            out=options.out,
            probes=options.probes,
            estimate=options.estimate,
            started=started,
        )
        if options.estimate:
            plan = comparison.plan
            print(plan.table(), *plan.notes, sep="\n")
            minutes = plan.minutes()
            print(f"{plan.cells} runs of {plan.seconds:.1f} seconds: {minutes:.1f} minutes of one process")
            return
        files = write_report(comparison, options.out, str(options.data))
    except (ImportError, OSError, ValueError, TypeError, RuntimeError) as error:
        parser.exit(1, f"viewaug compare: {error}\n")
    print(f"\n{comparison.table}\n\n{comparison.verdict}\n", *files, sep="\n")


def _pair(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or ":" not in path:
        raise ValueError(f"Expected --with as NAME=MODULE:FUNCTION, but got {text!r}.")
    return name, path
