"""Labelled utterances to put noise under: AudioMNIST, FSDD, Speech Commands, LibriSpeech, or synthetic voices."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample
from viewaug.adapters.torchaudio import read_waveform
from viewaug.examples.multitask import synthesis
from viewaug.examples.npz import read_npz

TRAINING_VOICES = 8  # of the synthetic ones; the others are for testing on digits
CACHE = Path.home() / ".cache" / "viewaug"
# Of AudioMNIST, its first split (Becker et al. 2018), which the paper has, too; the other 48 are for training.
UNSEEN_SPEAKERS = (5, 13, 18, 22, 26, 32, 33, 42, 45, 51, 52, 60)


class Speech(NamedTuple):
    """Utterances, each ``(T,)``, and for each task's name their labels, ``(N,)``; -1 does not count."""

    clips: list[Tensor]
    labels: Mapping[str, Tensor]

    def some(self, count: int | None) -> "Speech":
        """Return at most `count` utterances, drawn at random, always the same; None for all."""
        chosen = np.random.default_rng(0).permutation(len(self.clips))[:count] if count else range(len(self.clips))
        return Speech(
            [self.clips[i] for i in chosen], {name: label[list(chosen)] for name, label in self.labels.items()}
        )


def speech(source: str, *, train: bool, sample_rate: int) -> Speech:
    """Read utterances with the label ``digit`` and, where the test has speakers of the training, ``speaker``.

    Args:
        source: ``"synthetic"``, eSpeak NG's voices, of which the test on digits hears others than the training;
            ``"speechcommands"``, the digits of torchaudio's, downloaded to ``~/.cache/viewaug``; an .npz file of FSDD
            (``audio``, ``offsets``, ``digit``, ``speaker``, ``index``, ``sample_rate``); a folder of its recordings,
            such as ``7_jackson_32.wav``, of which the first five takes are for testing; that of AudioMNIST, with a
            folder for each speaker, such as ``26/7_26_3.wav``, of which :data:`UNSEEN_SPEAKERS` are; or ``LibriSpeech``
            with ``train-clean-100``, of which the label is the speaker, and every tenth utterance for testing.
        train: which split.
        sample_rate: to resample to, in Hz.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if something in it cannot be read.
    """
    if source == "synthetic":
        return _synthetic(train, sample_rate)
    if source == "speechcommands":
        return _speech_commands(train, sample_rate)
    path = Path(source)
    if (path / "train-clean-100").is_dir():
        return _librispeech(path, train, sample_rate)
    if path.is_dir():
        if found := audio_mnist(path, train):
            clips = [read_waveform(file, sample_rate)[0] for file, _ in found]
            return Speech(clips, {"digit": torch.tensor([digit for _, digit in found])})
        return _recordings(path, train, sample_rate)
    expected = "synthetic, speechcommands or a path of FSDD, AudioMNIST or LibriSpeech"
    return read_npz(path, lambda file: _fsdd(file, train, sample_rate), expected)


def _synthetic(train: bool, sample_rate: int) -> Speech:
    everyone = synthesis.utterances(sample_rate)
    if train:
        heard = [u for u in everyone if u.voice < TRAINING_VOICES and u.take < len(synthesis.TAKES) - 1]
        digits, voices = [u.digit for u in heard], [u.voice for u in heard]
    else:  # digits by new voices, known voices in a new take
        heard = [u for u in everyone if u.voice >= TRAINING_VOICES or u.take == len(synthesis.TAKES) - 1]
        digits = [u.digit if u.voice >= TRAINING_VOICES else -1 for u in heard]
        voices = [u.voice if u.voice < TRAINING_VOICES else -1 for u in heard]
    labels = {"digit": torch.tensor(digits), "speaker": torch.tensor(voices)}
    return Speech([u.waveform for u in heard], labels)


def _fsdd(file: Mapping[str, np.ndarray], train: bool, sample_rate: int) -> Speech:
    places, rate = file["offsets"], int(file["sample_rate"])
    audio = torch.from_numpy(file["audio"]).float() / 2**15
    chosen = np.flatnonzero((file["index"] >= 5) == train)
    clips = [resample(audio[places[i] : places[i + 1]], rate, sample_rate) for i in chosen]
    labels = {name: torch.from_numpy(file[name][chosen]).long() for name in ("digit", "speaker")}
    return Speech(clips, labels)


def audio_mnist(folder: Path, train: bool) -> list[tuple[Path, int]]:
    """Return the recordings of AudioMNIST in a folder, and their digits; none where there are none of either split.

    Raises:
        FileNotFoundError: if there are only those of the other split.
    """
    folder = folder / "data" if (folder / "data").is_dir() else folder
    named = [(file, re.fullmatch(r"(\d)_(\d\d)_\d+", file.stem)) for file in sorted(folder.glob("[0-9][0-9]/*.wav"))]
    found = [(file, int(name[1])) for file, name in named if name and (int(name[2]) in UNSEEN_SPEAKERS) != train]
    if named and not found:
        speakers = "speakers for training" if train else f"one of the speakers {UNSEEN_SPEAKERS} for the test"
        raise FileNotFoundError(f"Expected recordings of AudioMNIST by {speakers} in {folder}, but found none.")
    return found


def _librispeech(folder: Path, train: bool, sample_rate: int) -> Speech:
    """The 100 hours; the paper trains on them all, but then nothing is left to hear a speaker again in."""
    from torchaudio.datasets import LIBRISPEECH

    data = LIBRISPEECH(folder.parent, "train-clean-100", folder.name)
    about = [data.get_metadata(i) for i in range(len(data))]
    speakers = sorted({speaker for _, _, _, speaker, *_ in about})
    chosen = [(path, speaker) for path, _, _, speaker, _, utterance in about if (utterance % 10 != 9) == train]
    clips = [read_waveform(folder / path, sample_rate)[0] for path, _ in chosen]
    return Speech(clips, {"speaker": torch.tensor([speakers.index(speaker) for _, speaker in chosen])})


def _recordings(folder: Path, train: bool, sample_rate: int) -> Speech:
    named = [(file, re.fullmatch(r"(\d)_(\w+)_(\d+)", file.stem)) for file in sorted(folder.glob("*.wav"))]
    found = [(file, name) for file, name in named if name]
    if not found:
        raise FileNotFoundError(
            f"Expected recordings of FSDD, such as 7_jackson_32.wav, or of AudioMNIST, such as 26/7_26_3.wav, "
            f"but found none in {folder}."
        )
    speakers = sorted({name[2] for _, name in found})
    chosen = [(file, name) for file, name in found if (int(name[3]) >= 5) == train]
    labels = {
        "digit": torch.tensor([int(name[1]) for _, name in chosen]),
        "speaker": torch.tensor([speakers.index(name[2]) for _, name in chosen]),
    }
    return Speech([read_waveform(file, sample_rate)[0] for file, _ in chosen], labels)


def _speech_commands(train: bool, sample_rate: int) -> Speech:
    from torchaudio.datasets import SPEECHCOMMANDS

    CACHE.mkdir(parents=True, exist_ok=True)
    data = SPEECHCOMMANDS(CACHE, download=True, subset="training" if train else "testing")
    clips, digits = [], []
    for i in range(len(data)):
        path, _, word, *_ = data.get_metadata(i)  # its own reader needs FFmpeg
        if word in synthesis.WORDS:
            clips.append(read_waveform(CACHE / "SpeechCommands" / path, sample_rate)[0])
            digits.append(synthesis.WORDS.index(word))
    return Speech(clips, {"digit": torch.tensor(digits)})
