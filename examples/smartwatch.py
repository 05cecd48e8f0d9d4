"""Real readings of a smartwatch that carry two labels at once, out of a package: who moves, and how.

seglearn ships 140 recordings at 50 Hz, of 20 repetitions of an exercise each: 7 shoulder exercises by 10 subjects on
either side; an accelerometer's and a gyroscope's 3 axes (Burns et al., Physiological Measurement 2018). Nothing leaks:
the exercise is tested on subjects that were never seen, the subject on the last part of recordings whose first part
was, and no window lies in two parts.
"""

import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WINDOW = 128  # readings, 2.56 seconds
TRAINING, VALIDATION, TEST = range(1, 7), range(7, 9), range(9, 11)  # subjects, for the exercise
CUTS = (0.6, 0.8)  # of each recording of the subjects in training, for the subject
_ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class Recording(NamedTuple):
    """Readings, ``(T, C)``, and what they are of."""

    readings: Any
    exercise: int
    subject: int


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, and refuses whatever else a pickle can bring."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = np.ndarray.__reduce__(np.empty(0))[0].__module__  # whichever this NumPy has
        elif (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, and only arrays are read")
        return super().find_class(module, name)


def recordings(path: Path | None = None) -> list[Recording]:
    """Read the recordings.

    Args:
        path: of `watch_dataset.npy`; None for that of seglearn, which is not imported.

    Raises:
        ImportError: if seglearn is not installed.
        ValueError: if the file cannot be read, or holds anything else than arrays.
    """
    path = _shipped() if path is None else path
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            found = _ArraysOnly(file).load().item()
        columns = (found["X"], found["y"], found["subject"])
        return [Recording(np.asarray(x, np.float32), int(y), int(s)) for x, y, s in zip(*columns, strict=True)]
    except Exception as error:  # broken pickles make their readers raise all sorts
        raise ValueError(f"{path} cannot be read: {error}") from error


def smartwatch(given: Sequence[Recording] | None = None, window: int = WINDOW) -> dict[str, Any]:
    """Return the arrays that ``viewaug compare`` takes: windows, two labels, and the split.

    Each axis is standardised by the training part. Where a label would leak it is unknown, -1.

    Args:
        given: the recordings; None for those of seglearn.
        window: its length, in readings.

    Raises:
        ValueError: if a recording is too short, or holds something that is not finite.

    Examples:
        >>> data = smartwatch()
        >>> data["x"].shape[1:], sorted(data)
        ((6, 128), ['exercise', 'split', 'subject', 'x'])
    """
    x, exercise, subject, split = [], [], [], []
    for number, recording in enumerate(recordings() if given is None else given):
        if not np.isfinite(recording.readings).all():
            raise ValueError(f"Expected recordings to be finite, but number {number} is not.")
        known = recording.subject in TRAINING
        parts = _thirds(recording.readings) if known else _whole(recording)
        for name, readings in parts:
            if len(readings) < window:
                raise ValueError(
                    f"Expected recordings of which each part has {window} readings, but recording {number} has only "
                    f"{len(readings)} for {name}."
                )
            step = window // 4 if name == "train" else window // 2
            for start in range(0, len(readings) - window + 1, step):
                x.append(readings[start : start + window].T)
                exercise.append(recording.exercise if name == "train" or not known else -1)
                subject.append(recording.subject if known else -1)
                split.append(name)
    stacked, parts_of = np.stack(x), np.array(split)
    train = stacked[parts_of == "train"]
    mean, std = (getattr(train, name)((0, 2), keepdims=True) for name in ("mean", "std"))
    arrays = {"x": (stacked - mean) / std, "split": parts_of}
    return arrays | {"exercise": np.array(exercise), "subject": np.array(subject)}


def _thirds(readings: Any) -> Iterator[tuple[str, Any]]:
    cuts = [round(cut * len(readings)) for cut in CUTS]
    return zip(("train", "validation", "test"), np.split(readings, cuts), strict=True)


def _whole(recording: Recording) -> Iterator[tuple[str, Any]]:
    yield "validation" if recording.subject in VALIDATION else "test", recording.readings


def _shipped() -> Path:
    found = importlib.util.find_spec("seglearn")
    if found is None or found.origin is None:
        raise ImportError("The smartwatch's readings come with seglearn: pip install 'viewaug[examples]'")
    return Path(found.origin).parent / "data" / "watch_dataset.npy"
