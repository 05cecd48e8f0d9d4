"""Time several things in one process: one thread, CPU time, alternating rounds, the median of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable

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

    model = platform.processor() or platform.machine()
    return (
        f"{model}, {os.cpu_count()} cores, one thread, CPU time; Python {platform.python_version()}, "
        f"torch {torch.__version__}, kornia {kornia.__version__}"
    )
