"""PAMAP2 (Reiss and Stricker, ISWC 2012), the sensors of the first paper: readings of a chest, an arm and an ankle.

As the paper's code has them: 10 seconds at 100 Hz of the heart rate and three sensors' 51 readings, as 52 logarithmic
spectrograms of 32 x 32; subjects 1 to 4 and 7 to 9 for training, 5 to choose by, 6 to test on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ACTIVITIES = (1, 2, 3, 4, 5, 6, 7, 12, 13, 16, 24)  # without ironing, as there: chance is 9.1 %
SUBJECTS = {101: "train", 102: "train", 103: "train", 104: "train", 107: "train", 108: "train", 109: "train"} | {
    105: "validation",
    106: "test",
}
READINGS = 52
WINDOW, STEP = 1000, 250  # readings
_N_FFT, _HOP = 63, 32


def pamap2(folder: str | Path) -> dict[str, Any]:
    """Return the arrays that ``viewaug compare`` takes: spectrograms ``x``, ``activity`` and ``split``.

    Each of the 52 channels is standardised by the training part.

    Args:
        folder: with ``Protocol/subject101.dat`` and so on, or that folder itself.

    Raises:
        FileNotFoundError: if a subject's file is missing.
        ValueError: if one cannot be read, or has no windows.
    """
    place = Path(folder) / "Protocol"
    place = place if place.is_dir() else Path(folder)
    x, activity, split = [], [], []
    for subject, part in SUBJECTS.items():
        found = list(_windows(_read(place / f"subject{subject}.dat")))
        if not found:
            raise ValueError(f"{place / f'subject{subject}.dat'} has no {WINDOW} readings of one activity in a row.")
        spectra = [
            _log_spectrogram(torch.stack([window for window, _ in found[i : i + 64]])) for i in range(0, len(found), 64)
        ]
        x.append(torch.cat(spectra))
        activity += [label for _, label in found]
        split += [part] * len(found)
    stacked, parts = torch.cat(x), np.array(split)
    train = stacked[torch.from_numpy(parts == "train")]
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    # Half precision, as there are two hundred kilobytes of each window.
    return {"x": ((stacked - mean) / std).half(), "activity": np.array(activity), "split": parts}


def _read(file: Path) -> Any:
    """Return the rows of a file: a time, an activity, the heart rate and 51 readings."""
    if not file.is_file():
        raise FileNotFoundError(f"Expected a subject of PAMAP2 at {file}, but there is no such file.")
    try:
        rows = np.loadtxt(file, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if rows.shape[1] != 2 + READINGS:
        raise ValueError(f"Expected {2 + READINGS} columns in {file}, but got {rows.shape[1]}.")
    return rows


def _windows(rows: Any) -> Iterator[tuple[Tensor, int]]:
    """Yield windows in which one activity goes on, ``(52, 1000)``, with gaps filled in on a line."""
    time = np.arange(len(rows))
    readings = rows[:, 2:]
    for channel in range(READINGS):
        known = np.isfinite(readings[:, channel])
        if not known.any():
            raise ValueError(f"Expected readings in column {2 + channel} of PAMAP2, but all are missing.")
        readings[:, channel] = np.interp(time, time[known], readings[known, channel])
    activity = rows[:, 1].astype(int)
    cuts = np.flatnonzero(np.diff(activity)) + 1
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if activity[start] in ACTIVITIES:
            for first in range(start, end - WINDOW + 1, STEP):
                yield torch.from_numpy(readings[first : first + WINDOW].T.copy()), int(activity[start])


def _log_spectrogram(x: Tensor) -> Tensor:
    from torchaudio.functional import spectrogram

    window = torch.hann_window(_N_FFT)
    power: Tensor = spectrogram(x, 0, window, _N_FFT, _HOP, _N_FFT, power=2.0, normalized=False)
    return (power + 1e-6).log()
