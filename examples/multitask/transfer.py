"""The transfer sets of Viewmaker Networks (Tamkin et al., ICLR 2021), by torchvision's and torchaudio's own readers.

An encoder that was pretrained on other data is frozen, and linear probes tell how much it knows of each. Nothing is
downloaded: one folder holds what the readers would unpack there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from viewaug._markdown import markdown_table
from viewaug.comparison.verdict import with_interval
from viewaug.probes import Probe

SIZE = 32
SPEAKERS = 0.8  # of each speaker's utterances in LibriSpeech, for training


class Waveforms(NamedTuple):
    """How long sounds are, in samples, and at which rate."""

    length: int
    sample_rate: int


class Transfer(NamedTuple):
    """A data set to transfer to.

    Args:
        read: takes the folder, whether to train, and :class:`Waveforms` for sounds; items are an input and its labels.
        tasks: the names of labels.
        paper: the first paper's figures in %, one for each score, by our names of its views.
        f1: whether labels are attributes, which are scored by the mean of their F1 instead of by accuracy.
    """

    read: Callable[..., Dataset[Any]]
    tasks: Sequence[str]
    paper: Mapping[str, Sequence[float]]
    f1: bool = False


def read(name: str, root: str | Path, waveforms: Waveforms | None = None) -> list[Dataset[Any]]:
    """Return both splits of a data set, of inputs and labels.

    Raises:
        FileNotFoundError: if it is not in the folder.
    """
    sizes = {} if waveforms is None else {"waveforms": waveforms}
    try:
        return [TRANSFER[name].read(Path(root), train, **sizes) for train in (True, False)]
    except (ImportError, OSError, RuntimeError) as error:  # the readers raise either where there is nothing
        raise FileNotFoundError(f"Expected {name} in {root}, but it cannot be read: {error}") from error


def transfer(
    encoder: nn.Module,
    name: str,
    root: str | Path,
    *,
    waveforms: Waveforms | None = None,
    count: int | None = None,
    batch: int = 250,
) -> dict[str, float]:
    """Probe a frozen encoder on another data set; return accuracies, or mean F1, in % by the name of the task.

    Args:
        encoder: returns features, ``(B, F)``.
        name: one of :data:`TRANSFER`.
        root: the folder.
        waveforms: of the encoder's input, for sounds.
        count: at most so many inputs of either split are used, drawn at random, always the same; None for all.
        batch: how many the encoder takes at once.

    Raises:
        FileNotFoundError: if it is not in the folder.
    """
    of = TRANSFER[name]
    features, labels = [], []
    for data in read(name, root, waveforms):
        kept = np.random.default_rng(0).permutation(len(data))[:count].tolist()  # type: ignore[arg-type]
        x, y = _features(encoder, Subset(data, kept), batch)
        features.append(x)
        labels.append(y)
    found = {}
    for task, known, truth in zip(of.tasks, labels[0].T, labels[1].T, strict=True):
        classes = known.unique()  # a part of a data set need not have them all
        head = Probe.fit(nn.Identity(), features[0], {task: torch.searchsorted(classes, known.contiguous())})
        guess = classes[torch.cat([head(part)[task].argmax(1).cpu() for part in features[1].split(batch)])]
        found[task] = 100 * (_f1(guess, truth) if of.f1 else (guess == truth).float().mean().item())
    return {"F1": float(np.mean(list(found.values())))} if of.f1 else found


@torch.no_grad()
def _features(encoder: nn.Module, data: Dataset[Any], batch: int) -> tuple[Tensor, Tensor]:
    encoder.eval()
    device = next(encoder.parameters()).device
    pairs = [(encoder(x.to(device)), y) for x, y in DataLoader(data, batch)]
    features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return features, labels.view(len(features), -1)


def _f1(guess: Tensor, truth: Tensor) -> float:
    both = (guess * truth).sum().item()
    return 2 * both / max(1, (guess.sum() + truth.sum()).item())


def _small() -> Any:
    """The middle square of an image in 32 x 32 pixels, as the papers' code has it."""
    from torchvision import transforms as T

    return T.Compose([T.Resize(SIZE), T.CenterCrop(SIZE), T.ToTensor()])


def _aircraft(root: Path, train: bool) -> Dataset[Any]:
    """Cut out by their boxes."""
    from torchvision.datasets import FGVCAircraft

    lines = (root / "fgvc-aircraft-2013b" / "data" / "images_box.txt").read_text().splitlines()
    boxes = {name: (int(x0), int(y0), int(x1), int(y1)) for name, x0, y0, x1, y1 in map(str.split, lines)}

    def cut(file: str) -> Image.Image:
        with Image.open(file) as image:
            return image.convert("RGB").crop(boxes[Path(file).stem])

    return FGVCAircraft(root, "trainval" if train else "test", transform=_small(), loader=cut)


def _textures(root: Path, train: bool) -> Dataset[Any]:
    from torchvision.datasets import DTD

    return ConcatDataset([DTD(root, part, transform=_small()) for part in (("train", "val") if train else ("test",))])


def _faces(root: Path, train: bool) -> Dataset[Any]:
    from torchvision.datasets import CelebA

    return CelebA(root, "train" if train else "test", transform=_small())


def _scenes(root: Path, train: bool) -> Dataset[Any]:
    from torchvision.datasets import LSUN

    return LSUN(root / "lsun", "train" if train else "val", transform=_small())


class Objects(Dataset[Any]):
    """The objects of COCO, each cut out by its box, a fifth larger; torchvision's reader gives whole images."""

    def __init__(self, root: Path, train: bool) -> None:
        part = "train2017" if train else "val2017"
        found = json.loads((root / "coco" / "annotations" / f"instances_{part}.json").read_text(encoding="utf-8"))
        kinds = {kind["id"]: label for label, kind in enumerate(found["categories"])}
        self.folder, self.small = root / "coco" / part, _small()
        self.objects = [(one["image_id"], one["bbox"], kinds[one["category_id"]]) for one in found["annotations"]]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image_id, (left, top, width, height), label = self.objects[index]
        with Image.open(self.folder / f"{image_id:012}.jpg") as opened:
            image = opened.convert("RGB")
        # From the first pixel to the last, of which a box names the edges.
        left, right = round(left - 0.1 * width - 0.5), round(left + 1.1 * width - 0.5) + 1
        top, bottom = round(top - 0.1 * height - 0.5), round(top + 1.1 * height - 0.5) + 1
        box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
        return self.small(image.crop(box)), label


class Sounds(Dataset[Any]):
    """Recordings, cut or filled up with silence to one length, of a power of 1, and their labels."""

    def __init__(self, labelled: Sequence[tuple[Path, tuple[int, ...]]], waveforms: Waveforms) -> None:
        self.labelled, self.waveforms = labelled, waveforms

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from viewaug.adapters.torchaudio import read_waveform

        file, labels = self.labelled[index]
        clip = read_waveform(file, self.waveforms.sample_rate)[:, : self.waveforms.length]
        clip = clip / clip.square().mean().sqrt().clamp(min=1e-6)
        return nn.functional.pad(clip, (0, self.waveforms.length - clip.shape[1])), torch.tensor(labels)


def _sounds(data: Sequence[Any], folder: Path, tasks: slice, classes: list[list[Any]], w: Waveforms) -> Sounds:
    """Return what torchaudio's readers know of, read by soundfile, as theirs needs FFmpeg."""
    found = []
    for part in data:
        for i in range(len(part)):
            path, *about = part.get_metadata(i)
            labels = tuple(of.index(value) for of, value in zip(classes, about[tasks], strict=True))
            found.append((folder / path, labels))
    return Sounds(found, w)


def _librispeech(root: Path, train: bool, waveforms: Waveforms) -> Dataset[Any]:
    """Speakers of dev-clean, four fifths of whose utterances are for training."""
    from torchaudio.datasets import LIBRISPEECH

    data = LIBRISPEECH(root, "dev-clean")
    about = [data.get_metadata(i) for i in range(len(data))]
    of_speaker: dict[int, list[Path]] = {}
    for path, _, _, speaker, *_ in about:
        of_speaker.setdefault(speaker, []).append(root / "LibriSpeech" / path)
    rng, found = np.random.default_rng(0), []
    for label, speaker in enumerate(sorted(of_speaker)):
        files = of_speaker[speaker]
        order, cut = rng.permutation(len(files)), int(SPEAKERS * len(files))
        found += [(files[i], (label,)) for i in (order[:cut] if train else order[cut:])]
    return Sounds(found, waveforms)


def _voxceleb(root: Path, train: bool, waveforms: Waveforms) -> Dataset[Any]:
    from torchaudio.datasets import VoxCeleb1Identification

    folder = root / "voxceleb1"
    if not (folder / "iden_split.txt").is_file():  # which the reader would download
        raise FileNotFoundError(f"there is no {folder / 'iden_split.txt'}")
    parts = {part: VoxCeleb1Identification(folder, part) for part in ("train", "dev", "test")}
    known = sorted({parts["train"].get_metadata(i)[2] for i in range(len(parts["train"]))})
    wanted = [parts[part] for part in (("train", "dev") if train else ("test",))]
    return _sounds(wanted, folder / "wav", slice(1, 2), [known], waveforms)


def _audio_mnist(root: Path, train: bool, waveforms: Waveforms) -> Dataset[Any]:
    """Digits, by speakers that are not in training; torchaudio has no reader."""
    from viewaug.examples.multitask.speech import audio_mnist

    files = audio_mnist(root / "AudioMNIST", train)
    if not files:
        raise FileNotFoundError(f"there is no recording in {root / 'AudioMNIST'}")
    return Sounds([(file, (digit,)) for file, digit in files], waveforms)


def _commands(root: Path, train: bool, waveforms: Waveforms) -> Dataset[Any]:
    """The 30 words of the first version."""
    from torchaudio.datasets import SPEECHCOMMANDS

    parts = ("training", "validation") if train else ("testing",)
    data = [SPEECHCOMMANDS(root, "speech_commands_v0.01", subset=part) for part in parts]
    folder = root / "SpeechCommands"
    words = sorted(path.parent.name for path in (folder / "speech_commands_v0.01").glob("*/*.wav"))
    known = [word for word in dict.fromkeys(words) if not word.startswith("_")]
    return _sounds(data, folder, slice(1, 2), [known], waveforms)


def _fluent(root: Path, train: bool, waveforms: Waveforms) -> Dataset[Any]:
    """Actions, objects and locations."""
    from torchaudio.datasets import FluentSpeechCommands

    data = {part: FluentSpeechCommands(root, part) for part in ("train", "valid", "test")}
    about = [part.get_metadata(i)[5:] for part in data.values() for i in range(len(part))]
    known = [sorted(set(values)) for values in zip(*about, strict=True)]
    wanted = [data[part] for part in (("train", "valid") if train else ("test",))]
    return _sounds(wanted, root / "fluent_speech_commands_dataset", slice(4, 7), known, waveforms)


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the cells' scores beside the paper's, of one run each; nothing where none was transferred."""
    cells = [cell for cell in cells if cell.get("transfer")]
    rows = []
    for name, of in TRANSFER.items():
        for place, task in enumerate(("F1",) if of.f1 else of.tasks):
            for method in dict.fromkeys(cell["method"] for cell in cells):
                mine = [cell["transfer"] for cell in cells if cell["method"] == method]
                scores = [found[name][task] for found in mine if name in found]
                paper = f"{of.paper[method][place]:.1f}" if method in of.paper else ""
                rows += [[name, task, method, str(len(scores)), with_interval(scores), paper]] if scores else []
    return markdown_table(["data", "task", "views", "seeds", "here", "paper"], rows, 3) if rows else ""


def _images(learned: float, expert: float) -> dict[str, Sequence[float]]:
    return {"learned": [learned], "expert": [expert]}


def _speech(*rows: Sequence[float]) -> dict[str, Sequence[float]]:
    views = ("waveform", "expert", "learned", "learned@0.1")
    return dict(zip(views, zip(*rows, strict=True), strict=True))


# The tables of the first paper: images after CIFAR-10, speech after 100 hours of LibriSpeech.
TRANSFER = {
    "coco": Transfer(Objects, ("object",), _images(50.4, 49.9)),
    "celeba": Transfer(_faces, tuple(f"attribute {i}" for i in range(40)), _images(51.8, 51.0), f1=True),
    "lsun": Transfer(_scenes, ("scene",), _images(55.0, 56.2)),
    "aircraft": Transfer(_aircraft, ("aircraft",), _images(31.7, 32.5)),
    "dtd": Transfer(_textures, ("texture",), _images(28.8, 30.4)),
    "librispeech": Transfer(_librispeech, ("speaker",), _speech((97.1, 91.6, 88.3, 84.0))),
    "voxceleb1": Transfer(_voxceleb, ("speaker",), _speech((5.7, 7.8, 12.1, 9.1))),
    "audiomnist": Transfer(_audio_mnist, ("digit",), _speech((31.7, 63.9, 93.3, 87.9))),
    "commands": Transfer(_commands, ("word",), _speech((27.1, 31.9, 47.4, 41.6))),
    "fluent": Transfer(
        _fluent,
        ("action", "object", "location"),
        _speech((29.4, 32.0, 41.6, 37.9), (37.1, 40.3, 47.6, 47.6), (59.7, 63.3, 66.5, 68.3)),
    ),
}
IMAGE_SETS, SPEECH_SETS = tuple(TRANSFER)[:5], tuple(TRANSFER)[5:]
