"""The command line of the multi-task experiments."""

import argparse
import platform
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from viewaug.examples.multitask.cells import cell_names, read_cells
from viewaug.examples.multitask.destruction import draw_destruction
from viewaug.examples.multitask.engine import price, run_cell
from viewaug.examples.multitask.experiment import Experiment, cell_name
from viewaug.examples.multitask.methods import modern
from viewaug.examples.multitask.report import write_report
from viewaug.examples.multitask.transfer import read

from viewaug._files import sha256
from viewaug.commands._arguments import positive
from viewaug.comparison.grid import default_workers, run_grid
from viewaug.comparison.training import TimeIsUp

TIMEOUT = 124  # the exit code of a run that is not done, as timeout's
_TRAINING = ("epochs", "batch", "budget", "difficulty", "temperature", "precision")


def main(experiment: Experiment, description: str, sources: Mapping[str, str], arguments: Sequence[str] | None) -> None:
    """Run what is missing of a grid, and report; or report only.

    Args:
        experiment: what to run.
        description: of the command.
        sources: the settings that say where data are from, and a help text for each; the first is read as a trial.
        arguments: of the command line.
    """
    presets = experiment.presets()
    parser = _parser(experiment, description, sources, presets)
    options = parser.parse_args(arguments)
    settings = _settings(experiment, parser, options, presets[options.preset], tuple(sources))
    quick = options.preset == "quick"
    groups = dict.fromkeys(getattr(options, experiment.group + "s") or experiment.groups[: 1 if quick else None])
    if options.estimate:
        _estimate(experiment, options, settings, groups)
        return
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    if options.action == "run":
        seeds = options.seeds or (1 if quick else 3)
        former = cell_names(experiment, options.out)
        cells = {
            former.get((group, method, seed)) or cell_name(group, method, seed): (
                experiment,
                group,
                method,
                seed,
                settings,
                options.out,
                options.accelerator,
                options.max_steps,
                until,
                options.compile,
            )
            for seed in range(seeds)
            for group in groups
            for method in dict.fromkeys(options.methods)
        }
        places = {name: Path(getattr(settings, name)) for name in sources}
        kept = asdict(settings) | {name: place.name for name, place in places.items()}
        kept["transfer_root"] = Path(settings.transfer_root).name
        kept |= {
            "sha256": {name: sha256(place) for name, place in places.items() if place.is_file()},
            "max_steps": options.max_steps,
            "versions": {package: version(package) for package in experiment.packages},
            "python": platform.python_version(),
        }
        workers = options.workers or default_workers(options.accelerator)
        epochs = settings.training.epochs
        try:
            done = run_grid(run_cell, cells, options.out, kept, workers=workers, ticks=epochs, until=until)
            if len(done) < len(cells):
                raise TimeIsUp(f"Time is up after {len(done)} of {len(cells)} cells; the same command goes on.")
        except FileExistsError as error:
            parser.error(f"argument --out: {error}")
        except TimeIsUp as stopped:
            parser.exit(TIMEOUT, f"{stopped}\n")
        except OSError as error:  # such as a full disk
            parser.exit(1, f"{parser.prog}: {error}\n")
    try:
        if options.action == "run" or getattr(options, next(iter(sources))):
            finished = {cell[experiment.group] for cell in read_cells(experiment, options.out)[0]}
            for group in (group for group in experiment.groups if group in finished):
                draw_destruction(experiment, group, settings, options.out)
        print(write_report(experiment, options.out, asdict(presets["paper"])))
    except FileNotFoundError as error:
        parser.error(f"argument --out: {error}")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def _estimate(experiment: Experiment, options: argparse.Namespace, settings: Any, groups: Iterable[str]) -> None:
    """Print what a step of each kind takes, and the probes in the end, and how long all takes."""
    seeds = options.seeds or (1 if options.preset == "quick" else 3)
    total = 0.0
    print(f"{'data':12}{'views':36}{'ms a step':>12}{'steps':>10}{'probes, s':>12}{'hours':>10}")
    for group in groups:
        for method in dict.fromkeys(options.methods):
            step, steps, probes = price(experiment, group, method, settings, options.accelerator, options.compile)
            hours = (step * steps + probes) / 3600
            total += hours * seeds
            print(f"{group:12}{method:36}{1000 * step:12.1f}{steps:10}{probes:12.0f}{hours:10.2f}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.accelerator != "cpu" and torch.accelerator.is_available():
        memory = torch.accelerator.max_memory_allocated() / 2**30
    print(f"{total:.1f} hours of one process with {seeds} seeds; at most {memory:.1f} GiB of memory so far")


def _parser(
    experiment: Experiment, description: str, sources: Mapping[str, str], presets: Mapping[str, Any]
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = next(iter(sources))
    parser.add_argument(
        "action",
        nargs="?",
        choices=("run", "report"),
        default="run",
        help=f"report: only report; with --{first}, draw views, too",
    )
    parser.add_argument("--preset", choices=presets, default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    for name, text in sources.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument(
        f"--{experiment.group}s", nargs="+", choices=experiment.groups, help="default all, or the first if quick"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        type=modern,
        default=experiment.methods,
        metavar="METHOD",
        help=f"{', '.join(dict.fromkeys([*experiment.methods, *experiment.variants]))}, and others of viewaug compare, "
        "as learned:colour+warp, random:mix; a budget may follow, as noise@0.1, or a controller, learned@steered",
    )
    parser.add_argument("--seeds", type=positive(int), help="number of seeds, 0 to N-1; default 3, or 1 if quick")
    parser.add_argument("--epochs", type=positive(int))
    parser.add_argument("--batch", type=positive(int), help="pairs of views in a batch")
    parser.add_argument("--budget", type=positive(float))
    parser.add_argument("--difficulty", type=positive(float), help="have a controller adapt the budget, to hold this")
    parser.add_argument("--temperature", type=positive(float))
    parser.add_argument("--objective", choices=("simclr", "instance"), help="instance: instance discrimination")
    parser.add_argument("--curve", type=positive(int), metavar="EPOCHS", help="between two probes while training")
    parser.add_argument("--neighbours", type=positive(int), metavar="K", help="beside those, classify by K neighbours")
    parser.add_argument(
        "--prepool", type=positive(int), metavar="N", help="probe features before pooling, too, of N inputs"
    )
    parser.add_argument(
        "--views-in-probe", action="store_true", default=None, help="probe views of training inputs, too"
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score a held-out tenth of the training inputs instead of the test split: for choosing settings",
    )
    parser.add_argument(
        "--transfer",
        nargs="+",
        choices=tuple(experiment.transfers(presets["paper"])),
        help="probe these data sets, too",
    )
    parser.add_argument("--transfer-root", help="folder of those, as torchvision's and torchaudio's readers have them")
    parser.add_argument("--estimate", action="store_true", help="time a few steps of each, and say how long all takes")
    parser.add_argument("--max-steps", type=positive(int), default=-1, help="stop every run early, to try it")
    parser.add_argument(
        "--minutes",
        type=positive(float),
        help=f"stop then, with exit code {TIMEOUT}, and go on with the next call",
    )
    parser.add_argument("--compile", action="store_true", help="the encoder and the viewmaker, by torch.compile")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default the preset's")
    parser.add_argument("--accelerator", default="cpu", help="Lightning's: cpu, gpu, ...")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2 on a CPU, else 1")
    return parser


def _settings(
    experiment: Experiment,
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    settings: Any,
    sources: Sequence[str],
) -> Any:
    given = {name: getattr(options, name) for name in _TRAINING}
    training = replace(settings.training, **{name: value for name, value in given.items() if value is not None})
    places = {name: getattr(options, name) for name in sources if getattr(options, name)}
    names = ("objective", "curve", "neighbours", "prepool", "views_in_probe", "transfer", "transfer_root")
    wanted = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.transfer:
        wanted["transfer"] = tuple(options.transfer)
    settings = replace(settings, training=training, validation=options.validation, **places, **wanted)
    try:
        for method in options.methods:
            experiment.parse(method)
        if options.action == "run" or places:
            experiment.check(settings)
        for name in settings.transfer:
            read(name, settings.transfer_root, experiment.transfers(settings)[name])
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    return settings
