"""Labelled noise to put under speech: ESC-10, any folder of recordings, or synthetic babble, traffic and machines."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample
from viewaug.adapters.torchaudio import read_waveform
from viewaug.examples.multitask import synthesis
from viewaug.examples.multitask.speech import TRAINING_VOICES
from viewaug.examples.npz import read_npz

from viewaug._sounds import SOUNDS

TEST_FOLD = 5


class Noises(NamedTuple):
    """Clips of noise, each ``(T,)``, their labels, ``(N,)``, and what to call them in errors."""

    clips: list[Tensor]
    label: Tensor
    names: Sequence[str] = ()


def noises(source: str, *, train: bool, sample_rate: int) -> Noises:
    """Read noise.

    Args:
        source: ``"synthetic"``; an .npz file of ESC-10 (``audio``, ``label``, ``fold``, ``sample_rate``); a folder of
            ESC-50, with ``meta/esc50.csv`` and ``audio``, of which the classes of ESC-10 are read, the fifth fold for
            testing; or any folder of recordings, a class for each folder in it, or else for each file. Of those in a
            folder every fifth is for testing; of one alone, its last fifth.
        train: which split.
        sample_rate: to resample to, in Hz.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if something in it cannot be read.
    """
    if source == "synthetic":
        return _synthetic(train, sample_rate)
    path = Path(source)
    if path.is_dir():
        if (path / "meta" / "esc50.csv").exists():
            return _esc50(path, train, sample_rate)
        return _folder(path, train, sample_rate)
    return read_npz(path, lambda file: _esc10(file, train, sample_rate), "synthetic, a folder or a file of ESC-10")


def _synthetic(train: bool, sample_rate: int) -> Noises:
    generator = torch.Generator().manual_seed(int(train))
    voices = range(TRAINING_VOICES) if train else range(TRAINING_VOICES, len(synthesis.VOICES))
    kinds = [label for label in range(len(synthesis.NOISES)) for _ in range(12 if train else 6)]
    clips = [synthesis.noise(synthesis.NOISES[label], voices, generator, sample_rate) for label in kinds]
    return Noises(clips, torch.tensor(kinds))


def _esc10(file: Mapping[str, np.ndarray], train: bool, sample_rate: int) -> Noises:
    chosen = (file["fold"] != TEST_FOLD) == train
    audio = torch.from_numpy(file["audio"][chosen]).float() / 2**15
    clips = resample(audio, int(file["sample_rate"]), sample_rate)
    return Noises(list(clips), torch.from_numpy(file["label"][chosen]).long())


def _folder(folder: Path, train: bool, sample_rate: int) -> Noises:
    classes = {path.name: _sounds(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    classes = {name: files for name, files in classes.items() if files} or {f.stem: [f] for f in _sounds(folder)}
    if len(classes) < 2:
        raise FileNotFoundError(
            f"Expected two kinds of noise or more in {folder}, for each a folder of recordings or a file "
            f"({', '.join(SOUNDS)}), but found {len(classes)}."
        )
    clips, labels, names = [], [], []
    for label, files in enumerate(classes.values()):
        alone = len(files) == 1
        for place, file in enumerate(files):
            if alone or (place % 5 > 0) == train:
                clip = read_waveform(file, sample_rate)[0]
                cut = round(0.8 * len(clip))
                clips.append(clip if not alone else clip[:cut] if train else clip[cut:])
                labels.append(label)
                names.append(str(file))
    return Noises(clips, torch.tensor(labels), names)


def _sounds(folder: Path) -> list[Path]:
    found = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in SOUNDS)
    return [file for file in found if not file.name.startswith(".")]


def _esc50(folder: Path, train: bool, sample_rate: int) -> Noises:
    table = folder / "meta" / "esc50.csv"
    try:
        with table.open(newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["esc10"] == "True"]
        classes = sorted({row["category"] for row in rows})
        chosen = [row for row in rows if (int(row["fold"]) != TEST_FOLD) == train]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{table} cannot be read: {error}") from error
    clips = [read_waveform(folder / "audio" / row["filename"], sample_rate)[0] for row in chosen]
    names = [row["filename"] for row in chosen]
    return Noises(clips, torch.tensor([classes.index(row["category"]) for row in chosen]), names)
