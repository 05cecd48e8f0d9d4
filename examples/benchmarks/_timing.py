"""Time several things in one process: one thread, CPU time, alternating rounds, the median of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each function, all called once a round after one call to warm up."""
    torch.set_num_threads(1)
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def environment() -> str:
    """Say what was measured on what."""
    import kornia

    return (
        f"{_processor()}, {os.cpu_count()} cores, one thread, CPU time; Python {platform.python_version()}, "
        f"torch {torch.__version__}, kornia {kornia.__version__}"
    )


def _processor() -> str:
    """Name the processor, as Linux knows it or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
