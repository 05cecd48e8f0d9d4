"""Compare kinds of views on anyone's arrays."""

import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from viewaug import Viewmaker, load
from viewaug._checks import check_choice, check_count
from viewaug.comparison.arrays import TEST, TRAIN, VALIDATION, Arrays, fingerprint, from_dataset, read_arrays
from viewaug.comparison.cells import Cell, Settings, Source, encoder_for, kind_of, price, probe, run_cell
from viewaug.comparison.grid import default_workers, read_json, run_grid, write_json
from viewaug.comparison.objectives import OBJECTIVES
from viewaug.comparison.objectives import objective as build_objective
from viewaug.comparison.plan import Plan, make_plan
from viewaug.comparison.result import Comparison
from viewaug.comparison.views import Method, default_methods, parse

SEEDS, TRIALS, MINUTES = 5, 3, 30.0
_REPORT = 5.0  # seconds that are kept for the report
_LONG = 5.0  # minutes from which there are several processes
_LATE = 1.1  # times the minutes, after which no run begins


@contextmanager
def _alone() -> Iterator[None]:
    """Use one thread, as cells do in whichever process, and leave the caller's random numbers as they are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


@_alone()
def compare(
    x: Any,
    labels: Mapping[str, Any] | Any = None,
    *,
    methods: Sequence[str] | None = None,
    own: Mapping[str, str] | None = None,
    split: Any = None,
    group: Any = None,
    value_range: Sequence[float] | None = None,
    encoders: Sequence[str] = ("residual",),
    objective: str = "simclr",
    batch: int | None = None,
    labelled: int | None = None,
    seeds: int = SEEDS,
    trials: int = TRIALS,
    minutes: float = MINUTES,
    steps: int | None = None,
    device: str = "cpu",
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    probes: bool = False,
    estimate: bool = False,
    started: float | None = None,
) -> Comparison:
    """Find out which views some data need: pretrain a small encoder with each kind, and probe every label.

    All methods get the same time: the price of a step of each is measured once and gives its number of steps. Strengths
    are chosen by as many trials for everybody, on a validation part of the training data, and the best method likewise;
    the verdict is of test scores, paired by seed. Killed and called again with the same `out`, it goes on.

    Args:
        x: the inputs, ``(N, C, *spatial)`` with one to three spatial dimensions: an array, also one that stays on the
            disk; a tensor; a path as ``viewaug compare --data`` takes it; or, for data that do not fit into memory, a
            DataLoader or a data set of pairs of an input, and its label or a dictionary of them.
        labels: ``(N,)`` integers from 0, or -1 for unknown, for each label's name, or of a single label; of a path
            their names. None for none, or to take those of the file or the data set.
        methods: what to compare, as of :func:`viewaug.comparison.views.parse`; None for what fits the data, and `own`.
        own: paths of functions from a batch to views of it, ``"module:function"``, by the name of the method.
        split: ``(N,)``, ``"train"``, ``"validation"`` or ``"test"``, or 0 for training and 1 for the test.
        group: ``(N,)``, subjects or recordings, none of which lies in two parts.
        value_range: ``(low, high)`` of the inputs.
        encoders: one or more, as of :func:`viewaug.comparison.encoders.build_encoder`; the encoder decides as much as
            the data.
        objective: one of :data:`viewaug.comparison.objectives.OBJECTIVES`.
        batch: samples of a step; None for 128, or a quarter of the training part.
        labelled: how many training samples the probes know; None for all.
        seeds: of each method; below three there is no verdict.
        trials: of each method, at most.
        minutes: for everything; there are fewer trials and seeds where it is short.
        steps: instead of `minutes`, how many of the cheapest method each run has.
        device: torch device.
        workers: processes, for a path only; None for two on a CPU.
        out: folder for results; None for none.
        probes: write the first seed's probes to the folder, for ``viewaug diagnose``.
        estimate: measure prices only, for the result's `plan`.
        started: of `time.monotonic()`, when the minutes began; None for now.

    Raises:
        ValueError: names the array or argument that does not fit, before any training.

    Examples:
        >>> x, label = torch.rand(200, 1, 32), torch.arange(200) % 2
        >>> x[label == 1] += torch.linspace(0, 1, 32)
        >>> found = viewaug.compare(x, label, methods=["none", "noise"], seeds=1, trials=1, steps=4)
        >>> found.best in ("none", "noise")
        True
    """
    started = time.monotonic() if started is None else started
    for name, value in (("seeds", seeds), ("trials", trials)):
        check_count(name, value)
    if not minutes > 0:
        raise ValueError(f"Expected `minutes` to be positive, but got {minutes}.")
    check_choice("objective", objective, OBJECTIVES)
    if not encoders or len(set(encoders)) < len(encoders):
        raise ValueError(f"Expected `encoders` to be different ones, but got {', '.join(encoders) or 'none'}.")
    data, arrays, name = _data(x, labels, split=split, group=group, value_range=value_range)
    settings = Settings(objective=objective, batch=_batch(batch, arrays), labelled=labelled)
    kind = kind_of(arrays)
    own = dict(own or {})
    named = list(dict.fromkeys(methods or [*default_methods(kind), *own]))
    parsed = {method: parse(method, kind, own) for method in named}
    if not arrays.labels and "supervised" in (method.maker for method in parsed.values()):
        raise ValueError("Expected labels for the method supervised, but there are none.")
    for encoder in encoders:
        _, features = encoder_for(encoder, arrays)
        build_objective(objective, torch.nn.Identity(), features, samples=len(arrays))
    trials = trials if arrays.labels else 1  # there is nothing to choose by
    with tempfile.TemporaryDirectory() as temporary:
        study = _Study(
            data=data,
            arrays=arrays,
            settings=settings,
            methods=parsed,
            encoders=tuple(encoders),
            device=device,
            workers=1 if isinstance(data, Arrays) else workers or _workers(device, minutes, steps),
            out=Path(temporary if out is None else out),
            probes=probes,
            identity={"data": name, "device": device, **asdict(settings)},
        )
        plan = study.plan(trials=trials, seeds=seeds, minutes=minutes, steps=steps, started=started)
        found, notes = ([], []) if estimate else study.run(plan, None if steps else started + _LATE * 60 * minutes)
        return Comparison(
            cells=found,
            settings=study.identity | {"labels": list(arrays.labels), "encoders": list(encoders)},
            plan=plan,
            notes=(_size(arrays), *arrays.notes, *plan.notes, *notes),
            methods=parsed,
            arrays=arrays,
            viewmakers=study.viewmakers(found),
        )


@dataclass
class _Study:
    """Methods and encoders on data, with a folder for results."""

    data: Arrays | Source
    arrays: Arrays
    settings: Settings
    methods: Mapping[str, Method]
    encoders: tuple[str, ...]
    device: str
    workers: int
    out: Path
    probes: bool
    identity: dict[str, Any]

    def plan(self, *, trials: int, seeds: int, minutes: float, steps: int | None, started: float) -> Plan:
        """Return the plan that the folder has, with more prices where methods are new; or a new one."""
        self.out.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out / "plan.lock"):  # whoever comes second takes the prices of the first
            return self._plan(trials, seeds, minutes, steps, started)

    def _plan(self, trials: int, seeds: int, minutes: float, steps: int | None, started: float) -> Plan:
        file = self.out / "plan.json"
        known: dict[str, Any] = read_json(file) if file.exists() else {"identity": self.identity, "prices": {}}
        if known["identity"] != self.identity:
            raise FileExistsError(f"{self.out} holds results of other data or settings; choose another folder")
        missing = [
            (encoder, name)
            for encoder in self.encoders
            for name in self.methods
            if name not in known["prices"].get(encoder, {})
        ]
        for encoder, name in tqdm(missing, desc="prices", unit="kind", disable=None if missing else True):
            found = price(self.methods[name], encoder, self.arrays, self.settings, self.device)
            known["prices"].setdefault(encoder, {})[name] = found
        if "overhead" not in known:
            known["overhead"] = self._overhead()
        prices = {encoder: {name: known["prices"][encoder][name] for name in self.methods} for encoder in self.encoders}
        choices = {name: len(self._strengths(method)) for name, method in self.methods.items()}
        left = 60 * minutes - (time.monotonic() - started) - _REPORT
        plan = make_plan(
            prices,
            choices,
            trials=trials,
            seeds=seeds,
            overhead=known["overhead"],
            seconds=None if steps else max(1.0, left),
            steps=steps,
            workers=self.workers,
        )
        asked = {"seeds": seeds, "trials": trials, "minutes": minutes, "steps": steps}
        if "seconds" in known:  # all cells of a folder have equal times
            same = known["asked"] == asked
            plan = replace(
                plan,
                seconds=known["seconds"],
                trials=known["trials"],
                seeds=known["seeds"] if same else seeds,
                notes=tuple(known["notes"]) if same else (),
            )
        known |= {"seconds": plan.seconds, "trials": plan.trials, "seeds": plan.seeds, "notes": plan.notes}
        write_json(file, known | {"asked": asked})
        return plan

    def run(self, plan: Plan, deadline: float | None) -> tuple[list[dict[str, Any]], list[str]]:
        """Run the trials, and then one seed after another until the time is up; return cells, and what to say."""
        trials = [
            self._cell(plan, name, strength, encoder, seed=0, final=False)
            for encoder in self.encoders
            for name, method in self.methods.items()
            if plan.trials > 1
            for strength in self._strengths(method)[: plan.trials]
            if len(self._strengths(method)) > 1
        ]
        found = self._grid(trials, plan, "trials")
        chosen = self._choose(found, plan)
        runs = [
            self._cell(plan, name, chosen[encoder, name], encoder, seed=seed, final=True)
            for seed in range(plan.seeds)
            for encoder in self.encoders
            for name in self.methods
        ]
        each = len(self.encoders) * len(self.methods)
        done = self._grid(runs, plan, "runs", until=deadline, at_least=each)
        counts = [sum(cell["seed"] == seed for cell in done) for seed in range(plan.seeds)]
        whole = next((seed for seed, count in enumerate(counts) if count < each), plan.seeds)
        notes = []
        if whole < plan.seeds:
            notes.append(f"The time was up after {whole} of {plan.seeds} seeds; the same command again goes on.")
        return found + [cell for cell in done if cell["seed"] < whole], notes

    def viewmakers(self, cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Viewmaker]:
        """Load the viewmakers of the first seed, by encoder and method."""
        found = {}
        for cell in cells:
            if not cell["trial"] and cell["seed"] == 0:
                name = self._name(cell["method"], cell["strength"], cell["encoder"])
                file = self.out / "viewmakers" / f"{name}.safetensors"
                if file.exists():
                    found[cell["encoder"], cell["method"]] = load(file)
        return found

    def _name(self, method: str, strength: float | None, encoder: str) -> str:
        return Cell(self.methods[method], strength, encoder, 0, 1, final=True).name

    def _cell(self, plan: Plan, name: str, strength: float | None, encoder: str, *, seed: int, final: bool) -> Cell:
        return Cell(self.methods[name], strength, encoder, seed, plan.steps(encoder, name), final)

    def _grid(self, cells: Sequence[Cell], plan: Plan, title: str, **limits: Any) -> list[dict[str, Any]]:
        arguments = {cell.name: (cell, self.data, self.settings, self.device, self.out, self.probes) for cell in cells}
        settings = self.identity | {"seconds": plan.seconds}
        found = run_grid(run_cell, arguments, self.out, settings, workers=self.workers, title=title, **limits)
        return list(found.values())

    def _strengths(self, method: Method) -> tuple[float, ...]:
        return method.strengths(kind_of(self.arrays), contrastive=self._contrastive)

    @functools.cached_property
    def _contrastive(self) -> bool:
        loss = build_objective(self.settings.objective, torch.nn.Identity(), 8, samples=len(self.arrays))
        return loss.unrelated(2) is not None

    def _choose(self, trials: Sequence[Mapping[str, Any]], plan: Plan) -> dict[tuple[str, str], float | None]:
        """Return the strength of each encoder and method that is best on validation, or else its default."""
        chosen: dict[tuple[str, str], float | None] = {}
        for encoder in self.encoders:
            for name, method in self.methods.items():
                mine = [cell for cell in trials if (cell["encoder"], cell["method"]) == (encoder, name)]
                strengths = self._strengths(method)
                best = max(mine, key=lambda cell: score(cell["validation"]), default=None)
                chosen[encoder, name] = best["strength"] if best else strengths[0] if strengths else None
        return chosen

    def _overhead(self) -> float:
        """Return how long the probes of a cell take."""
        encoder, _ = encoder_for(self.encoders[0], self.arrays)
        start = time.monotonic()
        probe(encoder.to(self.device), self.arrays, self.settings, (VALIDATION, TEST), self.device)
        return time.monotonic() - start


def _workers(device: str, minutes: float, steps: int | None) -> int:
    """Return the number of processes; each takes some ten seconds to start."""
    return default_workers(device) if steps is None and minutes >= _LONG else 1


def score(accuracy: Mapping[str, float]) -> float:
    """Return the mean over all labels; 0 without any."""
    return statistics.mean(accuracy.values()) if accuracy else 0.0


def _data(x: Any, labels: Any, **roles: Any) -> tuple[Arrays | Source, Arrays, str]:
    """Return what cells read their data from, the data, and a checksum."""
    if isinstance(x, (str, os.PathLike)):
        given = [name for name, value in roles.items() if value is not None]
        if given:
            raise ValueError(f"Expected no `{given[0]}` beside a path, whose arrays say it.")
        if labels is not None and not (isinstance(labels, (list, tuple)) and all(isinstance(n, str) for n in labels)):
            raise ValueError("Expected `labels` to be names of arrays beside a path.")
        place = Path(x)
        arrays = read_arrays(place, labels)
        return Source(place, tuple(arrays.labels)), arrays, f"{fingerprint(place)} {' '.join(arrays.labels)}"
    if isinstance(x, (DataLoader, Dataset)):
        x, found = from_dataset(x.dataset if isinstance(x, DataLoader) else x)
        labels = found if labels is None else labels
    if labels is not None and not isinstance(labels, Mapping):
        labels = {"label": labels}
    arrays = Arrays.of(x, labels, **roles)
    return arrays, arrays, arrays.checksum()


def _size(arrays: Arrays) -> str:
    size = " x ".join(map(str, (arrays.channels, *arrays.size)))
    parts = {name: len(arrays.where(part)) for part, name in enumerate(("training", "validation", "test"))}
    return f"{len(arrays)} inputs of {size}: {', '.join(f'{count} {name}' for name, count in parts.items())}."


def _batch(batch: int | None, arrays: Arrays) -> int:
    """Return the batch, 128 or what gives four of a small training part."""
    count = len(arrays.where(TRAIN))
    if batch is None:
        batch = min(128, max(16, 1 << int(math.log2(max(1, count // 4)))))
    check_count("batch", batch, 2)
    if count < batch:
        raise ValueError(f"Expected `x` to have at least a batch of {batch} training samples, but it has {count}.")
    return batch
