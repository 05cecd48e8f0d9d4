"""The table of results that the former demo wrote; they stay as they are."""

import statistics
from collections.abc import Sequence
from typing import Any

TASKS = ("photo", "digit")


def table(cells: Sequence[dict[str, Any]], *, validation: bool = False) -> str:
    """Method x task: mean and standard deviation over the seeds."""
    seeds = len({cell["seed"] for cell in cells})
    split = " on held-out training images" if validation else ""
    lines = [
        f"Linear probe accuracy in %{split}, the loss at the end, and the spread of the features: "
        f"mean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}",
        "",
    ]
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    width = max(9, *map(len, methods))
    columns = (
        *((task, (task,), 1) for task in TASKS),
        ("mean", TASKS, 1),
        ("loss", ("loss",), 2),
        ("spread", ("spread",), 2),
    )
    lines.append(f"| {'views':{width}} | " + " | ".join(f"{name:>12}" for name, _, _ in columns) + " |")
    lines.append(f"| {'-' * width} | " + " | ".join("-----------:" for _ in columns) + " |")
    for method in methods:
        row = []
        for _, keys, digits in columns:
            found = [cell for cell in cells if cell["method"] == method and keys[0] in cell]
            values = [statistics.mean(cell[key] for key in keys) for cell in found]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            row.append((f"{statistics.mean(values):.{digits}f}{spread}" if values else "").rjust(12))
        lines.append(f"| {method:{width}} | " + " | ".join(row) + " |")
    return "\n".join(lines)
