"""A grid of experiments: each cell is run once, whoever runs it, and leaves one JSON file."""

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from viewaug._files import replacing

Result = dict[str, Any]
Task = tuple[Callable[..., Result], Sequence[Any], Path, Result]


def run_grid(
    function: Callable[..., Result],
    cells: Mapping[str, Sequence[Any]],
    out: Path,
    settings: Mapping[str, Any],
    *,
    workers: int = 1,
    ticks: int | None = None,
    title: str | None = None,
    until: float | None = None,
    at_least: int = 0,
) -> dict[str, Result]:
    """Return ``function(*arguments)`` of each cell, from its file if there is one.

    Processes of several calls can share a grid: a cell that another one is running is waited for. A killed run loses
    the cells that it was running, and nothing else.

    Args:
        function: of a module, so that other processes can import it; returns what JSON can hold. It may call `tick`.
        cells: the arguments by the cell's name, which becomes the name of its file.
        out: folder of the files, in ``out / "cells"``.
        settings: what the results depend on besides; files of other settings are refused.
        workers: processes, of one thread each; 1 runs here.
        ticks: how often each cell calls `tick`, for the progress bar; None counts cells.
        title: of the progress bar.
        until: of `time.monotonic()`, when the last cell begins; what is missing then is not returned. None for no end.
        at_least: how many of the first cells are run whatever the time.

    Raises:
        FileExistsError: if `out` holds results of other settings.
    """
    files = {name: out / "cells" / f"{name}.json" for name in cells}
    found = {name: _read(file, settings) for name, file in files.items()}
    missing = [name for name, result in found.items() if result is None]
    if missing and len(missing) < len(cells):
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are in {out} already.")
    if missing:
        tasks = {name: (function, cells[name], files[name], dict(settings)) for name in missing}
        patient = {name: math.inf if until is None or i < at_least else until for i, name in enumerate(cells)}
        _run_all(tasks, min(workers, len(missing)), ticks, title, patient)
    return {name: (found[name] or read_json(file))["cell"] for name, file in files.items() if file.exists()}


def tick() -> None:
    """Move the progress bar of the grid by one."""
    _advance()


def read_json(file: Path) -> dict[str, Any]:
    """Read a file; a broken one is named in the error."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}; delete it to run it anew") from error


def write_json(file: Path, content: Any) -> None:
    """Write a file, whole or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def held_out_tenth(n: int) -> Tensor:
    """Return which of `n` training inputs are held out for choosing settings: every tenth, whatever their order.

    Examples:
        >>> held_out_tenth(23).nonzero().flatten().tolist()
        [9, 19]
    """
    return torch.arange(n) % 10 == 9


def default_workers(device: str = "cpu") -> int:
    """Return the number of processes for a device: two on a CPU of several cores."""
    return min(2, os.cpu_count() or 1) if device == "cpu" else 1


def _read(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    if not file.exists():
        return None
    found = read_json(file)
    if found["settings"] != json.loads(json.dumps(settings)):
        raise FileExistsError(f"{file.parents[1]} holds results of other settings; choose another folder")
    return found


def _run_all(
    tasks: Mapping[str, Task], workers: int, ticks: int | None, title: str | None, until: Mapping[str, float]
) -> None:
    global _advance
    total = len(tasks)
    in_a_log = not sys.stderr.isatty()  # a line of each cell instead of a bar
    with tqdm(total=total * (ticks or 1), unit="epoch" if ticks else "cell", desc=title, disable=in_a_log) as bar:

        def finished(name: str, count: int) -> None:
            if in_a_log:
                print(f"{title or 'cells'} {count}/{total}: {name}", file=sys.stderr, flush=True)

        if workers == 1:
            _advance = bar.update if ticks else _nothing
            # Those that another process is running come last.
            ran = 0
            for patient in (False, True):
                left = {}
                for name, task in tasks.items():
                    if time.monotonic() >= until[name]:
                        continue
                    bar.set_postfix_str(name)
                    if _run(*task, patient=patient):
                        bar.update(0 if ticks else 1)
                        ran += 1
                        finished(name, ran)
                    else:
                        left[name] = task
                tasks = left
            return
        context = _context(next(iter(tasks.values()))[0].__module__)
        count = context.Value("i", 0)
        with ProcessPoolExecutor(workers, context, _start_worker, (count,)) as pool:
            running: dict[Future[bool], str] = {
                pool.submit(_run, *task, patient=False): name for name, task in tasks.items()
            }
            try:
                while running:
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    late = [f for f, name in running.items() if time.monotonic() >= until[name] and f.cancel()]
                    for future in late:
                        running.pop(future)
                    for future in done - set(late):
                        name = running.pop(future)
                        if future.result():
                            finished(name, total - len(running))
                        else:
                            running[pool.submit(_run, *tasks[name], patient=True)] = name
                    bar.set_postfix_str("; ".join(islice(running.values(), workers)), refresh=False)
                    bar.update((count.value if ticks else len(tasks) - len(running)) - bar.n)
            except BaseException:
                for future in running:  # not by shutdown, which the end of the block may overtake
                    future.cancel()
                pool.shutdown(wait=False)
                raise


def _context(module: str) -> Any:
    """Return how to start workers: forked from a process that has the imports behind it, where that is safe."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _run(
    function: Callable[..., Result], arguments: Sequence[Any], file: Path, settings: Result, patient: bool
) -> bool:
    """Run a cell unless its file is there. Return False if another process is running it, or wait with patience."""
    torch.set_num_threads(1)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=-1 if patient else 0):
            if not file.exists():
                write_json(file, {"settings": settings, "cell": function(*arguments)})
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _nothing() -> None:
    pass


_advance: Callable[[], Any] = _nothing


def _start_worker(count: Any) -> None:
    global _advance

    def advance() -> None:
        with count.get_lock():
            count.value += 1

    _advance = advance
