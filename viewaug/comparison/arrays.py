"""The arrays that are compared on: what is the input, what is a label, and what is held out."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewaug._files import sha256

TRAIN, VALIDATION, TEST = range(3)
UNKNOWN = -1  # of a label
_LARGE = 2**30  # bytes, below which no file is refused for what it unpacks to
ROLES = ("x", "split", "group", "value_range")
_SPLITS = {
    **dict.fromkeys(("train", "0", "False"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val"), VALIDATION),
    **dict.fromkeys(("test", "1", "True"), TEST),
}
_CHUNK = 1 << 23  # numbers that are looked at at once


@dataclass(frozen=True)
class Arrays:
    """Inputs with labels, divided into parts to train on, to choose by, and to test on.

    Attributes:
        x: the inputs, ``(N, C, *spatial)``; an array, or a part of a file that looks like one.
        labels: ``(N,)`` for each label's name, numbered from 0, -1 where it is unknown.
        part: ``(N,)``, to which part each belongs.
        value_range: of the inputs, or None.
        mean: of each channel in training.
        std: of each channel in training.
        notes: what was taken for what, in sentences.
    """

    x: Any
    labels: dict[str, Tensor]
    part: Tensor
    value_range: tuple[float, float] | None
    mean: list[float]
    std: list[float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        x: Any,
        labels: Mapping[str, Any] | None = None,
        *,
        split: Any = None,
        group: Any = None,
        value_range: Sequence[float] | None = None,
        notes: Sequence[str] = (),
    ) -> "Arrays":
        """Check arrays, and hold out a fifth to test on and a fifth to choose by, unless `split` does.

        Args:
            x: the inputs, ``(N, C, *spatial)``, with one to three spatial dimensions.
            labels: ``(N,)`` integers from 0 for each label's name, -1 where it is unknown.
            split: ``(N,)``, for each input ``"train"``, ``"validation"`` or ``"test"``, or 0 for training and 1 for
                the test.
            group: ``(N,)``, a subject or a recording, of which no part has what another one has.
            value_range: ``(low, high)`` of the inputs; None to find out.
            notes: what to add to the report.

        Raises:
            ValueError: names the array that does not fit.
        """
        x = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        if not hasattr(x, "shape") or not hasattr(x, "dtype") or not 3 <= len(x.shape) <= 5:
            shape = tuple(getattr(x, "shape", ()))
            raise ValueError(f"Expected `x` to be an array (N, C, *spatial) of 1 to 3 dimensions, but got {shape}.")
        if x.dtype.kind not in "fiub" or 0 in x.shape:
            raise ValueError(f"Expected `x` to hold numbers, but got {tuple(x.shape)} of {x.dtype}.")
        count = x.shape[0]
        found = {name: _label(name, values, count) for name, values in (labels or {}).items()}
        groups = None if group is None else _column("group", group, count)
        part = _given(split, count) if split is not None else _drawn(count, found, groups)
        if groups is not None:
            _apart(part, groups)
        if split is not None and not (part == VALIDATION).any():
            train = np.flatnonzero(part == TRAIN)
            mine = {name: label[train] for name, label in found.items()}
            inner = _drawn(len(train), mine, None if groups is None else groups[train], test=False)
            part[train] = np.where(inner == TEST, VALIDATION, TRAIN)
        for name, label in found.items():
            absent = np.setdiff1d(label[label != UNKNOWN], label[part == TRAIN])
            if len(absent):
                raise ValueError(f"Expected every class of `{name}` in the training part, but it has none of {absent}.")
            if any((label[part == number] == UNKNOWN).all() for number in (VALIDATION, TEST)):
                raise ValueError(f"Expected known values of `{name}` in the validation and the test part.")
        low, high, mean, std = _statistics(x, part == TRAIN)
        notes = [*notes]
        if value_range is None and x.dtype == np.uint8:
            value_range = (0.0, 255.0)
            notes.append("`x` is of bytes: its value range is 0 to 255.")
        elif value_range is None and len(x.shape) == 4 and low >= 0 and high <= 1:
            value_range = (0.0, 1.0)
            notes.append("`x` is from 0 to 1, which was taken for its value range.")
        if value_range is not None:
            value_range = tuple(float(end) for end in np.asarray(value_range).flatten())
            if len(value_range) != 2 or not value_range[0] < value_range[1]:
                raise ValueError(f"Expected `value_range` to be (low, high), but got {value_range}.")
            if low < value_range[0] or high > value_range[1]:
                raise ValueError(
                    f"Expected `x` within `value_range`, {value_range[0]:g} to {value_range[1]:g}, "
                    f"but it is from {low:g} to {high:g}."
                )
        for name, label in found.items():
            if (label == UNKNOWN).any():
                notes.append(f"`{name}` is known of {int((label != UNKNOWN).sum())} inputs.")
        parts = torch.from_numpy(part)
        tensors = {name: torch.from_numpy(label) for name, label in found.items()}
        return cls(x, tensors, parts, value_range, mean, std, tuple(notes))

    def __len__(self) -> int:
        return len(self.part)

    @property
    def channels(self) -> int:
        """How many an input has."""
        return int(self.x.shape[1])

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size of an input."""
        return tuple(int(side) for side in self.x.shape[2:])

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return len(self.size)

    def checksum(self) -> str:
        """Return a checksum of everything."""
        found = hashlib.sha256(repr((tuple(self.x.shape), self.value_range, list(self.labels))).encode())
        for _, rows in _chunks(self.x):
            found.update(np.ascontiguousarray(rows).tobytes())
        for part in (self.part, *self.labels.values()):
            found.update(part.numpy().tobytes())
        return found.hexdigest()

    def where(self, part: int) -> Tensor:
        """Return the places of a part."""
        return (self.part == part).nonzero().flatten()

    def take(self, places: Tensor) -> Tensor:
        """Read some inputs, float32."""
        rows = np.ascontiguousarray(self.x[places.numpy()])
        return torch.from_numpy(rows.astype(np.float32, copy=False))


def read_arrays(place: Path, labels: Sequence[str] | None = None) -> Arrays:
    """Read an .npz file, or a folder of .npy files, which stay on the disk.

    ``x``, ``split``, ``group`` and ``value_range`` are what they are called; of the others, integers (or booleans) of
    one dimension are labels.

    Args:
        place: the file or folder.
        labels: names of the labels; None for all that can be.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is broken, or an array does not fit.
    """
    found = _open(place)
    if "x" not in found:
        raise ValueError(f"Expected an array `x` in {place}, but found {', '.join(found) or 'none'}.")
    others = {name: array for name, array in found.items() if name not in ROLES}
    named = [name for name, array in others.items() if array.ndim == 1 and array.dtype.kind in "iub"]
    unknown = sorted(set(labels or ()) - set(named))
    if unknown:
        raise ValueError(f"Expected `labels` of {', '.join(named) or 'which there are none'}, but got {unknown[0]!r}.")
    named = named if labels is None else list(labels)
    took = f"Labels: {', '.join(named)}." if named else "There are no labels."
    rest = [f"{name} {array.shape} {array.dtype}" for name, array in others.items() if name not in named]
    if rest:
        took += f" Not taken for labels: {', '.join(rest)}."
    roles = {role: found[role] for role in ROLES[1:] if role in found}
    return Arrays.of(found["x"], {name: others[name] for name in named}, **roles, notes=[took])


class Stored:
    """The inputs of a data set of pairs, read when they are asked for, as an array."""

    def __init__(self, data: Any) -> None:
        self.data = data
        first = np.asarray(data[0][0])
        self.shape, self.dtype = (len(data), *first.shape), first.dtype

    def __getitem__(self, places: Any) -> Any:
        places = range(len(self.data))[places] if isinstance(places, slice) else places
        rows = [np.asarray(self.data[int(place)][0]) for place in places]
        odd = next((row.shape for row in rows if row.shape != self.shape[1:]), None)
        if odd is not None:
            raise ValueError(f"Expected inputs `x` of one shape, but got {self.shape[1:]} and {odd}.")
        return np.stack(rows) if rows else np.empty((0, *self.shape[1:]), self.dtype)


def from_dataset(data: Any) -> tuple[Stored, dict[str, Any]]:
    """Return the inputs and the labels of a data set of pairs of an input, and a label or a dictionary of labels.

    Raises:
        ValueError: if it is not such a data set.
    """
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        raise ValueError("Expected `x` to be a data set with a length and items.")
    if not isinstance(data[0], (tuple, list)):
        raise ValueError(f"Expected `x` to be a data set of pairs, but its items are {type(data[0]).__name__}.")
    rows = [data[place][1] for place in range(len(data))] if len(data[0]) > 1 else []
    if rows and isinstance(rows[0], Mapping):
        return Stored(data), {name: np.array([int(row[name]) for row in rows]) for name in rows[0]}
    return Stored(data), {"label": np.array([int(row) for row in rows])} if rows else {}


def fingerprint(place: Path) -> str:
    """Return a checksum of the data at a place."""
    if place.is_file():
        return sha256(place)
    return " ".join(sha256(file) for file in sorted(place.glob("*.npy")))


def _open(place: Path) -> dict[str, Any]:
    if place.is_dir():
        files = sorted(place.glob("*.npy"))
        return {file.stem: _load(file, mmap_mode="r") for file in files}
    if not place.is_file():
        raise FileNotFoundError(f"Expected data at {place}, but there is no such file or folder.")
    opened = _load(place)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(f"Expected {place} to be an .npz file or a folder, but it is one array.")
    with opened:
        members: Any = opened.zip
        size = sum(member.file_size for member in members.infolist())
        if size > max(_LARGE, 200 * place.stat().st_size):
            raise ValueError(f"{place} would unpack to {size / 2**30:.0f} GiB; give a folder of .npy files instead.")
        try:
            found = {name: opened[name] for name in opened.files}
        except Exception as error:  # broken files make the reader raise all sorts
            raise ValueError(f"{place} cannot be read: {error}") from error
    odd = next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:
        raise ValueError(f"{place} holds {odd!r}, which is no array.")
    return found


def _load(file: Path, **options: Any) -> Any:
    try:
        return np.load(file, allow_pickle=False, **options)
    except Exception as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _column(name: str, values: Any, count: int) -> Any:
    array = np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"Expected `{name}` to have the shape ({count},), as many as `x`, but got {array.shape}.")
    return array


def _label(name: str, values: Any, count: int) -> Any:
    array = _column(name, values, count)
    if array.dtype.kind not in "iub":
        raise ValueError(f"Expected `{name}` to hold integers, but got {array.dtype}.")
    if array.dtype.kind == "i" and array.min() < UNKNOWN:
        raise ValueError(f"Expected `{name}` to hold integers from 0, or -1 for unknown, but got {array.min()}.")
    known = array.astype(np.int64) > UNKNOWN
    classes, numbers = np.unique(array[known], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"Expected `{name}` to have two classes or more, but got only {classes}.")
    label = np.full(count, UNKNOWN)
    label[known] = numbers
    return label


def _given(split: Any, count: int) -> Any:
    values = [str(value) for value in _column("split", split, count)]
    strange = sorted(set(values) - set(_SPLITS))
    if strange:
        raise ValueError(
            "Expected `split` to be 'train', 'validation' or 'test', or 0 for training and 1 for the test, "
            f"but got {', '.join(strange[:3])}."
        )
    part = np.array([_SPLITS[value] for value in values])
    for name, number in (("train", TRAIN), ("test", TEST)):
        if not (part == number).any():
            raise ValueError(f"Expected `split` to have a part {name}, but it is empty.")
    return part


def _drawn(count: int, labels: Mapping[str, Any], groups: Any, *, test: bool = True) -> Any:
    """Hold out a fifth of samples, evenly by the first label, or of groups, and a fifth for validation."""
    rng = np.random.default_rng(0)
    if groups is None:
        order = rng.permutation(count)
        for label in list(labels.values())[:1]:
            order = order[np.argsort(label[order], kind="stable")]
        turn = np.empty(count, dtype=np.int64)
        turn[order] = np.arange(count)
    else:
        names, number = np.unique(groups, return_inverse=True)
        if len(names) < 3:
            raise ValueError(f"Expected `group` to have three groups or more, but got {len(names)}.")
        turn = rng.permutation(len(names))[number]
    fifth = min(5, int(turn.max()) + 1)
    part = np.where(turn % fifth == 0, TEST, TRAIN)
    return np.where(turn % fifth == 1, VALIDATION, part) if test else part


def _apart(part: Any, groups: Any) -> None:
    sides = {number: set(groups[part == number].tolist()) for number in (TRAIN, VALIDATION, TEST)}
    for one, other in ((TRAIN, TEST), (TRAIN, VALIDATION), (VALIDATION, TEST)):
        shared = sorted(sides[one] & sides[other], key=str)
        if shared:
            raise ValueError(f"Expected `group` to lie in one part of `split` each, but {shared[0]} lies in two.")


def _chunks(x: Any) -> Iterator[tuple[int, Any]]:
    rows = max(1, _CHUNK // math.prod(x.shape[1:]))
    for start in range(0, x.shape[0], rows):
        yield start, np.asarray(x[start : start + rows])


def _statistics(x: Any, train: Any) -> tuple[float, float, list[float], list[float]]:
    """Return the least and the largest value, and mean and deviation of each channel in training, in one pass."""
    axes = (0, *range(2, len(x.shape)))
    low, high = np.inf, -np.inf
    sums: Any = 0.0
    squares: Any = 0.0
    many, first = 0, None
    for start, rows in _chunks(x):
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            bad = start + int(np.flatnonzero(~np.isfinite(rows).all(tuple(range(1, rows.ndim))))[0])
            raise ValueError(f"Expected `x` to be finite, but sample {bad} is not.")
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
        rows = rows[train[start : start + len(rows)]].astype(np.float64)
        if first is None and len(rows):
            first = rows.mean(axes, keepdims=True)  # without which squares would lose their digits
        if len(rows):
            rows = rows - first
            sums, squares = sums + rows.sum(axes), squares + np.square(rows).sum(axes)
            many += rows.size // rows.shape[1]
    mean = sums / many
    std = np.sqrt(np.maximum(squares / many - np.square(mean), 0))
    mean = mean + np.asarray(first).reshape(-1)
    constant = np.flatnonzero(std <= 1e-9 * (1e-30 + np.abs(mean)))
    if len(constant):
        raise ValueError(f"Expected every channel of `x` to vary in training, but channel {constant[0]} is constant.")
    return low, high, mean.tolist(), std.tolist()
