"""The first paper's transfer sets: every reader on tiny files of its format, probes, and the command."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn
from viewaug.examples import multitask_audio, multitask_image
from viewaug.examples.multitask import transfer as module
from viewaug.examples.multitask.transfer import IMAGE_SETS, SPEECH_SETS, TRANSFER, Waveforms, read, table, transfer

RATE = 16_000
SHAPE = Waveforms(3000, RATE)


def draw(file, label: int, size=(60, 40)) -> None:
    """A picture whose class can be told from its red."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(file))).integers(60, size=(size[1], size[0], 3), dtype=np.uint8)
    pixels[..., 0] += np.uint8(90 * label)
    Image.fromarray(pixels).save(file, quality=95)


def say(file, label: int, seconds: float = 0.1) -> None:
    """A tone whose class can be told from its height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(RATE * seconds)) / RATE
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 300 * (1 + 4 * label) * time), RATE)


def aircraft(root):
    folder = root / "fgvc-aircraft-2013b" / "data"
    boxes = []
    for part, names in (("trainval", "abcd"), ("test", "ef")):
        for i, name in enumerate(names):
            draw(folder / "images" / f"{name}.jpg", i % 2)
            boxes.append(f"{name} 10 5 50 30")
        lines = [f"{name} {('A 300', 'B 7')[i % 2]}" for i, name in enumerate(names)]
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (folder / "variants.txt").write_text("A 300\nB 7\n")
    (folder / "images_box.txt").write_text("\n".join(boxes) + "\n")


def dtd(root):
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for part, names in (("train", "ab"), ("val", "cd"), ("test", "ef")):
        files = [f"{kind}/{kind}_{name}.jpg" for name in names for kind in ("dotted", "woven")]
        for file in files:
            draw(folder / "images" / file, int(file.startswith("woven")))
        (folder / "labels" / f"{part}1.txt").write_text("\n".join(files) + "\n")


def coco(root):
    for part, count in (("train2017", 4), ("val2017", 2)):
        objects = []
        for i in range(count):
            draw(root / "coco" / part / f"{i:012}.jpg", i % 2)
            objects.append({"image_id": i, "bbox": [0.5 + i, 1.5, 20.0, 0.2 + 10 * i], "category_id": (3, 90)[i % 2]})
        found = {"annotations": objects, "categories": [{"id": 3}, {"id": 90}]}
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "coco" / "annotations" / f"instances_{part}.json").write_text(json.dumps(found))


def celeba(root, monkeypatch):
    folder = root / "celeba"
    names = [f"{i:06}.jpg" for i in range(8)]
    for i, name in enumerate(names):
        draw(folder / "img_align_celeba" / name, i % 2)
    head = " ".join(f"attribute{k}" for k in range(40))
    rows = "\n".join(f"{name} " + " ".join([("-1", "1")[i % 2]] * 40) for i, name in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"8\n{head}\n{rows}\n")
    for file in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        (folder / file).write_text("8\nx y\n" + "\n".join(f"{name} 1 2" for name in names) + "\n")
    (folder / "identity_CelebA.txt").write_text("\n".join(f"{name} 1" for name in names) + "\n")
    parts = "\n".join(f"{name} {0 if i < 4 else 2}" for i, name in enumerate(names))
    (folder / "list_eval_partition.txt").write_text(parts + "\n")
    monkeypatch.setattr("torchvision.datasets.celeba.check_integrity", lambda *args: True)  # by its checksums


def lsun(root, monkeypatch):
    """A stand-in of LSUN's own reader, which needs lmdb."""

    class Fake(list):
        def __init__(self, folder, classes, transform):
            assert folder == root / "lsun"
            for i in range({"train": 4, "val": 2}[classes]):
                draw(root / "lsun" / f"{classes}-{i}.jpg", i % 2)
                self.append((transform(Image.open(root / "lsun" / f"{classes}-{i}.jpg")), i % 2))

    monkeypatch.setattr("torchvision.datasets.LSUN", Fake)


def librispeech(root, part: str = "dev-clean", utterances: int = 10):
    for label, speaker in enumerate((84, 1272)):
        folder = root / "LibriSpeech" / part / str(speaker) / "121"
        names = [f"{speaker}-121-{i:04}" for i in range(utterances)]
        for name in names:
            say(folder / f"{name}.flac", label)
        (folder / f"{speaker}-121.trans.txt").write_text("\n".join(f"{name} A WORD" for name in names) + "\n")


def voxceleb1(root):
    lines = []
    for label, speaker in enumerate(("id10001", "id10007")):
        for i, part in enumerate((1, 1, 2, 3)):
            say(root / "voxceleb1" / "wav" / speaker / "abc" / f"{i:05}.wav", label)
            lines.append(f"{part} {speaker}/abc/{i:05}.wav")
    (root / "voxceleb1" / "iden_split.txt").write_text("\n".join(lines) + "\n")


def audiomnist(root):
    for speaker in (1, 2, 26, 60):
        for digit in (0, 1):
            say(root / "AudioMNIST" / "data" / f"{speaker:02}" / f"{digit}_{speaker:02}_0.wav", digit)


def commands(root):
    folder = root / "SpeechCommands" / "speech_commands_v0.01"
    names = [f"{word}/{who}_nohash_0.wav" for word in ("bed", "cat") for who in "abcd"]
    for name in names:
        say(folder / name, int(name.startswith("cat")))
    say(folder / "_background_noise_" / "rain.wav", 0)
    for part, who in (("validation", "c"), ("testing", "d")):
        (folder / f"{part}_list.txt").write_text("\n".join(name for name in names if f"/{who}_" in name) + "\n")


def fluent(root):
    folder = root / "fluent_speech_commands_dataset"
    (folder / "data").mkdir(parents=True)
    for part, count in (("train", 4), ("valid", 2), ("test", 2)):
        with (folder / "data" / f"{part}_data.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["", "path", "speakerId", "transcription", "action", "object", "location"])
            for i in range(count):
                say(folder / "wavs" / "speakers" / "s1" / f"{part}{i}.wav", i % 2)
                path = f"wavs/speakers/s1/{part}{i}.wav"
                words = (("activate", "lamp", "none"), ("bring", "shoes", "kitchen"))[i % 2]
                rows.writerow([i, path, "s1", "a sentence", *words])


def write(name: str, root, monkeypatch) -> None:
    maker = globals()[name]
    maker(root, monkeypatch) if name in ("celeba", "lsun") else maker(root)


SIZES = {  # of either split
    "coco": (4, 2),
    "celeba": (4, 4),
    "lsun": (4, 2),
    "aircraft": (4, 2),
    "dtd": (8, 4),
    "librispeech": (16, 4),
    "voxceleb1": (6, 2),
    "audiomnist": (4, 4),
    "commands": (6, 2),
    "fluent": (6, 2),
}


class Told(nn.Module):
    """Features in which the classes are apart: the mean of red, or how often a wave crosses zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        told = (
            x[:, 0].flatten(1).mean(1) if x.ndim == 4 else (x.diff(dim=2).sign().diff(dim=2) != 0).float().sum((1, 2))
        )
        return self.scale * torch.stack([told, torch.zeros_like(told)], 1)


@pytest.mark.parametrize("name", TRANSFER)
def test_readers(name, tmp_path, monkeypatch):
    """Both splits, of the paper's kind of input, and a probe that is right where the classes are apart."""
    speech = name in SPEECH_SETS
    waveforms = SHAPE if speech else None
    with pytest.raises(FileNotFoundError, match=f"Expected {name} in"):
        read(name, tmp_path, waveforms)
    write(name, tmp_path, monkeypatch)
    train, test = read(name, tmp_path, waveforms)
    assert (len(train), len(test)) == SIZES[name]
    x, _ = train[0]
    assert x.shape == ((1, 3000) if speech else (3, 32, 32))
    if speech:
        assert x[:, :1600].square().mean().item() == pytest.approx(1, rel=1e-3)
        assert not x[:, 1600:].any()
    found = transfer(Told(), name, tmp_path, waveforms=waveforms)
    assert found == pytest.approx(dict.fromkeys(("F1",) if name == "celeba" else TRANSFER[name].tasks, 100.0))
    few = transfer(Told(), name, tmp_path, waveforms=waveforms, count=4)
    assert set(few) == set(found)


def test_objects_are_cut_out_by_their_boxes(tmp_path):
    """A fifth larger, and never out of the image, or empty."""
    coco(tmp_path)
    data = module.Objects(tmp_path, train=True)
    assert [label for _, label in data] == [0, 1, 0, 1]
    whole = torch.zeros(3, 40, 60)
    whole[0, 10:21, 20:31] = 1.0
    Image.fromarray((255 * whole).permute(1, 2, 0).byte().numpy()).save(tmp_path / "coco/train2017/000000000000.jpg")
    data.objects[0] = (0, [20, 10, 11, 11], 0)
    red = data[0][0][0]
    assert 0.4 < red.mean() < 0.65  # eleven pixels of fifteen, on either side
    assert max(red[0].mean(), red[-1].mean(), red[:, 0].mean(), red[:, -1].mean()) < 0.1 < red[16, 16]


def test_f1():
    guess, truth = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0])
    assert module._f1(guess, truth) == 0.5
    assert module._f1(torch.zeros(4), torch.zeros(4)) == 0


def test_table_has_the_papers_figures():
    cells = [{"method": "learned", "transfer": {"dtd": {"texture": value}}} for value in (20.0, 22.0)]
    cells.append({"method": "none", "transfer": {"dtd": {"texture": 10.0}}})
    assert "| dtd | texture | learned | 2 | 21.0 ± 12.7 | 28.8 |" in table(cells)
    assert "| dtd | texture | none | 1 | 10.0 |  |" in table(cells)
    assert table([{"method": "learned"}]) == ""
    means = {name: np.mean([np.mean(TRANSFER[other].paper[name]) for other in SPEECH_SETS]) for name in ("waveform",)}
    assert means["waveform"] == pytest.approx((97.1 + 5.7 + 31.7 + 27.1 + 42.067) / 5, abs=0.01)
    assert len(IMAGE_SETS) == len(SPEECH_SETS) == 5


def test_images_in_the_command(tmp_path, monkeypatch, capsys):
    dtd(tmp_path)
    options = ["--preset", "quick", "--overlays", "none", "--methods", "none", "--seeds", "1", "--max-steps", "1"]
    options += ["--workers", "1", "--transfer", "dtd", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        multitask_image.main([*options, "--transfer-root", str(tmp_path / "nowhere")])
    assert "Expected dtd in" in capsys.readouterr().err
    multitask_image.main([*options, "--prepool", "100", "--transfer-root", str(tmp_path)])
    kept = json.loads((tmp_path / "out" / "cells" / "none-none-0.json").read_text())
    assert 0 <= kept["cell"]["transfer"]["dtd"]["texture"] <= 100
    assert str(tmp_path) not in json.dumps(kept)
    assert "## Transfer" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_speech_preset_in_miniature(tmp_path, monkeypatch):
    """LibriSpeech's speakers, as the first paper has them, and digits to transfer to."""
    librispeech(tmp_path, "train-clean-100", 20)
    audiomnist(tmp_path)
    paper = multitask_audio.PRESETS["speech"]
    assert {1 + p.length // p.hop_length for p in (paper, multitask_audio.PRESETS["paper"])} == {paper.n_mels}
    small = replace(paper, length=9440, training=replace(paper.training, encoder="small", epochs=1, batch=8))
    monkeypatch.setitem(multitask_audio.PRESETS, "speech", small)
    where = ["--speech", str(tmp_path / "LibriSpeech"), "--transfer-root", str(tmp_path), "--transfer", "audiomnist"]
    options = ["--preset", "speech", "--mixtures", "speech", "--methods", "learned", "--seeds", "1", "--workers", "1"]
    multitask_audio.main([*options, *where, "--max-steps", "1", "--out", str(tmp_path / "out")])
    cell = json.loads((tmp_path / "out" / "cells" / "speech-learned-0.json").read_text())["cell"]
    assert set(cell["test"]) == {"speaker"}
    assert 0 <= cell["transfer"]["audiomnist"]["digit"] <= 100
    assert cell["reached"]["budget"] == 0.05
