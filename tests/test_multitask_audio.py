"""The multi-task audio experiments: speech, noise, mixtures, views by hand, the command and its report."""

import csv
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from viewaug.examples import multitask_audio
from viewaug.examples.multitask import speech as speech_module
from viewaug.examples.multitask import synthesis
from viewaug.examples.multitask.engine import nearest, probe
from viewaug.examples.multitask.mixtures import MIXTURES, Mixed
from viewaug.examples.multitask.noises import Noises, noises
from viewaug.examples.multitask.speech import Speech, speech
from viewaug.examples.multitask_audio import PRESETS, AudioExperiment

import viewaug
from viewaug.comparison.handmade_audio import SpectralViews, waveform_views

pytestmark = pytest.mark.filterwarnings("ignore")
RATE = 8000


def clips(count: int, length: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length + 10 * i, generator=generator) for i in range(count)]


def mixed(mixture: str = "both", **options) -> Mixed:
    utterances = Speech(clips(12, 300), {"digit": torch.arange(12) % 3})
    background = Noises(clips(6, 2000, 1), torch.arange(6) % 2)
    return Mixed(utterances, background, mixture, **{"length": 500, "train": True, **options})


class Whole:
    """A data set of 40 that is always given as a whole."""

    def __init__(self, batch: dict) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 40

    def __getitems__(self, indices) -> dict:
        return self.batch


def all_of(data: Mixed) -> dict:
    return data.__getitems__(range(len(data)))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixtures(mixture):
    batch = all_of(mixed(mixture))
    labels = {"both": ["digit", "noise"], "speech": ["digit"], "noise": ["noise"]}[mixture]
    assert sorted(batch) == sorted([*labels, "index", "views"])
    assert batch["views"][0].shape == (12, 1, 500)
    assert torch.equal(*batch["views"])
    item = mixed(mixture)[5]
    assert torch.equal(item["views"][0], batch["views"][0][5])


def test_mixture_is_the_sum_of_its_parts():
    both, speech_alone, noise_alone = (all_of(mixed(name, snr=6.0))["views"][0] for name in ("both", "speech", "noise"))
    torch.testing.assert_close(both, speech_alone + noise_alone)
    power = noise_alone.square().mean((1, 2))
    torch.testing.assert_close(power, torch.full((12,), 10**-0.6))  # of an utterance of power 1
    loud = speech_alone.square().sum((1, 2)) / torch.tensor([300 + 10 * i for i in range(12)])
    torch.testing.assert_close(loud, torch.ones(12))


def test_batches_are_mixed_as_one_waveform_after_another():
    """To the bit: the same draws, and parts put together by slices."""
    data = mixed(redraw=True)
    data.epoch = 2
    for i, view in enumerate(all_of(data)["views"][0]):
        clip = data.speech.clips[i]
        clip = clip / clip.square().mean().sqrt()
        start = int(data.rng(i, 2).integers(500 - len(clip) + 1))
        found = torch.zeros(1, 500)
        found[0, start : start + len(clip)] = clip
        _, which, begin = data._draw(data.rng(i, 0))
        noise = data.noises.clips[which][begin : begin + 500]
        assert torch.equal(view, found + 10 ** (-5 / 20) * (noise / noise.square().mean().sqrt()))


def test_what_a_mixture_depends_on():
    def waveforms(epoch=0, **options):
        data = mixed(**options)
        data.epoch = epoch
        return all_of(data)["views"][0]

    assert torch.equal(waveforms(), waveforms())
    assert torch.equal(waveforms(), waveforms(epoch=3))
    assert not torch.equal(waveforms(), waveforms(seed=1))
    assert not torch.equal(waveforms(), waveforms(train=False))
    assert not torch.equal(waveforms(redraw=True), waveforms(redraw=True, epoch=1))
    repeated = all_of(mixed(repeats=2))
    assert len(repeated["views"][0]) == 24
    assert torch.equal(repeated["digit"], torch.arange(12).repeat(2) % 3)
    assert not torch.equal(*repeated["views"][0].chunk(2))


def test_shared_noise():
    assert torch.equal(*all_of(mixed())["views"])
    x0, x1 = all_of(mixed(shared_noise_probability=0))["views"]
    assert (x0 != x1).flatten(1).any(1).all()


def test_silent_parts_of_noise_are_left_out():
    clip = torch.zeros(4000)
    clip[2000:2500] = 1.0
    data = Mixed(Speech(clips(40, 300), {}), Noises([clip], torch.tensor([0])), "noise", length=500, train=True)
    assert (all_of(data)["views"][0] != 0).flatten(1).float().mean(1).min() >= 0.25


def test_long_utterances_are_cut():
    data = Mixed(Speech(clips(2, 900), {}), Noises(clips(1, 900), torch.tensor([0])), "speech", length=500, train=True)
    assert (all_of(data)["views"][0] != 0).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"mixture": "music"}, "`mixture`"),
        ({"length": 0}, "`length`"),
        ({"length": 2001}, "`length`"),
        ({"shared_noise_probability": 2}, "`shared_noise_probability`"),
    ],
)
def test_bad_mixtures(options, name):
    with pytest.raises(ValueError, match=name):
        mixed(**options)


def test_synthetic_voices():
    train, test = (speech("synthetic", train=train, sample_rate=RATE) for train in (True, False))
    assert len(train.clips) == 640
    assert len(test.clips) == 560
    for label, classes in (("digit", 10), ("speaker", 8)):
        assert train.labels[label].unique().tolist() == list(range(classes))
        assert test.labels[label].unique().tolist() == list(range(-1, classes))
    # No voice of the test on digits is in training, and no take of the test on voices.
    assert not ((test.labels["digit"] >= 0) & (test.labels["speaker"] >= 0)).any()
    assert len({clip.numpy().tobytes() for clip in (*train.clips, *test.clips)}) == 1200
    assert all(0.1 < len(clip) / RATE < 0.9 for clip in train.clips)
    few = train.some(100)
    assert len(few.clips) == len(few.labels["digit"]) == 100
    assert torch.equal(few.clips[0], train.some(2).clips[0])
    again = synthesis.utterances(2 * RATE)[0].waveform
    assert len(again) == pytest.approx(2 * len(train.clips[0]), abs=2)


def test_synthetic_noise():
    train, test = (noises("synthetic", train=train, sample_rate=RATE) for train in (True, False))
    for found in (train, test):
        assert found.label.unique().tolist() == [0, 1, 2]
        assert all(len(clip) == 5 * RATE and clip.isfinite().all() and clip.std() > 0 for clip in found.clips)
    assert len({clip.numpy().tobytes() for clip in (*train.clips, *test.clips)}) == 54

    def centroid(kind: str) -> float:
        power = torch.stack([clip for clip, k in zip(train.clips, train.label, strict=True) if k == kind])
        spectrum = torch.fft.rfft(power).abs().square().sum(0)
        return float((spectrum * torch.arange(len(spectrum))).sum() / spectrum.sum() / 5)

    assert centroid(synthesis.NOISES.index("traffic")) < 400 < centroid(synthesis.NOISES.index("babble"))


def test_fsdd(tmp_path):
    waveforms = clips(12, 200)
    index = np.arange(12, dtype=np.uint8)
    np.savez(
        tmp_path / "fsdd.npz",
        audio=np.concatenate([(2000 * clip).short().numpy() for clip in waveforms]),
        offsets=np.cumsum([0, *map(len, waveforms)]),
        digit=index % 10,
        speaker=index % 2,
        index=index,
        sample_rate=RATE,
    )
    (tmp_path / "recordings").mkdir()
    for i, clip in enumerate(waveforms):
        file = tmp_path / "recordings" / f"{i % 10}_{'ab'[i % 2]}_{i}.wav"
        soundfile.write(file, (2000 * clip).short().numpy(), RATE)
    for train, count in ((True, 7), (False, 5)):
        packed = speech(str(tmp_path / "fsdd.npz"), train=train, sample_rate=RATE)
        files = speech(str(tmp_path / "recordings"), train=train, sample_rate=RATE)
        assert len(packed.clips) == len(files.clips) == count
        order = np.lexsort([packed.labels["speaker"], packed.labels["digit"]])  # files come by their names
        assert files.labels["digit"].tolist() == packed.labels["digit"][order].tolist()
        assert all(torch.equal(clip, packed.clips[i]) for clip, i in zip(files.clips, order, strict=True))
    assert len(speech(str(tmp_path / "fsdd.npz"), train=False, sample_rate=2 * RATE).clips[0]) == 400


def test_speech_commands(tmp_path, monkeypatch):
    """Its layout, as if it had been downloaded."""
    monkeypatch.setattr(speech_module, "CACHE", tmp_path)
    folder = tmp_path / "SpeechCommands" / "speech_commands_v0.02"
    names = [f"{word}/{speaker}_nohash_0.wav" for word in ("two", "seven", "tree") for speaker in ("a", "b", "c")]
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, clips(1, 1600, i)[0].clamp(-3, 3).numpy() / 4, 2 * RATE)
    (folder / "validation_list.txt").write_text("")
    (folder / "testing_list.txt").write_text("\n".join(name for name in names if "/c_" in name))
    train, test = (speech("speechcommands", train=train, sample_rate=RATE) for train in (True, False))
    assert sorted(train.labels["digit"].tolist()) == [2, 2, 7, 7]
    assert sorted(test.labels["digit"].tolist()) == [2, 7]
    assert set(train.labels) == {"digit"}  # a speaker is in one split only
    assert len(train.clips[0]) == 800


def test_esc10(tmp_path):
    waveforms = torch.stack(clips(10, 800, 2)[:1] * 10) * torch.arange(1, 11)[:, None]
    fold = np.arange(10, dtype=np.uint8) % 5 + 1
    audio = (500 * waveforms).short().numpy()
    np.savez(tmp_path / "esc.npz", audio=audio, label=np.arange(10) % 2, fold=fold, sample_rate=RATE)
    (tmp_path / "ESC-50" / "meta").mkdir(parents=True)
    (tmp_path / "ESC-50" / "audio").mkdir()
    with (tmp_path / "ESC-50" / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10"])
        for i in range(10):
            table.writerow([f"{i}.wav", fold[i], 7 * (i % 2), ["dog", "rain"][i % 2], "True"])
            soundfile.write(tmp_path / "ESC-50" / "audio" / f"{i}.wav", audio[i], RATE)
        table.writerow(["10.wav", 1, 3, "cow", "False"])
    for train, count in ((True, 8), (False, 2)):
        packed = noises(str(tmp_path / "esc.npz"), train=train, sample_rate=RATE)
        files = noises(str(tmp_path / "ESC-50"), train=train, sample_rate=RATE)
        assert len(packed.clips) == len(files.clips) == count
        assert torch.equal(packed.label, files.label)
        assert all(torch.equal(a, b) for a, b in zip(packed.clips, files.clips, strict=True))


def test_audio_mnist(tmp_path):
    """Its layout, at its own rate; no speaker of the test is in training."""
    for speaker in (1, 26, 60, 7):
        (tmp_path / "data" / f"{speaker:02}").mkdir(parents=True)
        for digit in (3, 8):
            file = tmp_path / "data" / f"{speaker:02}" / f"{digit}_{speaker:02}_0.wav"
            soundfile.write(file, clips(1, 4800, speaker)[0].clamp(-3, 3).numpy() / 4, 48_000)
    (tmp_path / "data" / "audioMNIST_meta.txt").write_text("{}")
    train, test = (speech(str(tmp_path), train=train, sample_rate=RATE) for train in (True, False))
    assert train.labels["digit"].tolist() == test.labels["digit"].tolist() == [3, 8, 3, 8]
    assert set(train.labels) == {"digit"}  # a speaker is in one split only
    assert all(len(clip) == 800 for clip in train.clips)
    assert not any(torch.equal(a, b) for a in train.clips for b in test.clips)
    for speaker in ("26", "60"):
        (tmp_path / "data" / speaker).rename(tmp_path / speaker)
    with pytest.raises(FileNotFoundError, match="for the test"):
        speech(str(tmp_path), train=False, sample_rate=RATE)


def test_folders_of_noise(tmp_path):
    """A class for each folder, or for each file, as the paper's three; what is tested on is not trained on."""
    waveforms = clips(9, 1000, 3)
    for i, clip in enumerate(waveforms):
        for file in (
            tmp_path / "folders" / ("rain" if i < 6 else "wind") / f"{i}.flac",
            tmp_path / "files" / f"{i}.wav",
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, clip.clamp(-3, 3).numpy() / 4, RATE)
    (tmp_path / "folders" / "rain" / "._0.flac").write_text("no")
    (tmp_path / "folders" / "empty").mkdir()
    train, test = (noises(str(tmp_path / "folders"), train=train, sample_rate=RATE) for train in (True, False))
    assert train.label.tolist() == [0, 0, 0, 0, 1, 1]
    assert test.label.tolist() == [0, 0, 1]
    assert not any(torch.equal(a, b) for a in train.clips for b in test.clips)
    train, test = (noises(str(tmp_path / "files"), train=train, sample_rate=RATE) for train in (True, False))
    assert train.label.tolist() == test.label.tolist() == list(range(9))
    for i, (before, after) in enumerate(zip(train.clips, test.clips, strict=True)):
        assert len(after) == pytest.approx((1000 + 10 * i) / 5, abs=1)
        torch.testing.assert_close(torch.cat([before, after]), waveforms[i].clamp(-3, 3) / 4, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"200 samples, those of .*0\.wav"):
        Mixed(Speech(clips(2, 300), {}), test, "noise", length=500, train=False)
    soundfile.write(tmp_path / "0.wav", waveforms[0].numpy() / 9, RATE)
    (tmp_path / "folders").rename(tmp_path / "files" / "folders")  # one class
    with pytest.raises(FileNotFoundError, match=r"two kinds of noise or more in .*, but found 1"):
        noises(str(tmp_path), train=True, sample_rate=RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speech", "nowhere"], "nowhere"),
        (["--noise", "nowhere"], "nowhere"),
        (["--noise", "broken.npz"], r"broken.npz cannot be read"),
    ],
)
def test_sources_are_read_before_training(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"no")
    with pytest.raises(SystemExit):
        multitask_audio.main(["--preset", "quick", *options, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", [speech, noises])
def test_bad_sources(reader, tmp_path):
    options = {"train": True, "sample_rate": RATE}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reader("nowhere", **options)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        reader(str(tmp_path), **options)
    (tmp_path / "broken.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"broken\.npz cannot be read"):
        reader(str(tmp_path / "broken.npz"), **options)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("a,b\n1,2\n")
    (tmp_path / "7_a_9.wav").write_text("no")
    with pytest.raises(ValueError, match=r"(esc50\.csv|7_a_9\.wav) cannot be read"):
        reader(str(tmp_path), **options)


def test_waveform_views():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(64, 1, 2000), torch.zeros(1, 1, 2000)])
    y = waveform_views(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert (y[-1] == 0).all()
    silent = (y[:-1].abs() < 0.3).float().mean((1, 2))  # of noise of power 1, a quarter is
    assert silent.min() < 0.5
    assert silent.max() > 0.8


def test_spectral_views():
    torch.manual_seed(0)
    views = SpectralViews(40, 30)
    x = torch.full((200, 1, 40, 30), 5.0)
    masked = (views(x) < 2.5).squeeze(1)
    assert masked.all(2).sum(1).float().mean() == pytest.approx(12, abs=2)  # bands, of 0 to 24
    assert masked.all(1).sum(1).float().mean() == pytest.approx(9, abs=2)  # frames, of 0 to 18
    assert views(x)[~masked.unsqueeze(1)].std() > 0.2


def test_every_method_makes_views():
    experiment, settings = AudioExperiment(), PRESETS["quick"]
    x = all_of(experiment.data("both", experiment.parse("none")[1], settings, 0, train=True))["views"][0][:4]
    encoder, features = experiment.encoder("both", settings)
    seen = experiment.as_seen("both", settings, x)
    assert seen.shape == (4, 1, 40, 33)
    assert torch.equal(encoder.eval()(x), encoder(seen))
    for name in (*experiment.methods, "noise@0.2", "learned:warp", "waveform-learned:filter", "waveform/region"):
        y = experiment.views("both", *experiment.parse(name), settings)(x)
        assert encoder(y).shape == (4, features)
        assert (y.ndim == 3) == (name.split(":")[0] in ("none", "waveform", "waveform-learned"))
        if name.startswith("noise"):
            budget = 0.2 if name == "noise@0.2" else 0.05
            torch.testing.assert_close(viewaug.distortion(seen, y), torch.full((4,), budget))


def test_labels_that_do_not_count():
    """A probe that is right where labels count, and would be wrong elsewhere."""
    x = torch.eye(2).repeat(20, 1)
    train = {"views": [x], "digit": torch.arange(40) % 2}
    test = {"views": [x], "digit": torch.where(torch.arange(40) < 20, torch.arange(40) % 2, -1)}

    encoder = nn.Linear(2, 2, bias=False)
    nn.init.eye_(encoder.weight)
    assert probe(encoder, Whole(train), test, ("digit", "noise"))[1] == {"digit": 100.0}


def test_neighbours(tmp_path):
    """Beside probes while training; the flags of the paper's preset, too."""
    options = ["--methods", "none", "--mixtures", "both", "--neighbours", "5", "--epochs", "2", "--curve", "1"]
    options += ["--prepool", "50", "--views-in-probe", "--workers", "1", "--out", str(tmp_path)]
    multitask_audio.main(["--preset", "quick", *options])
    cell = json.loads((tmp_path / "cells" / "both-none-0.json").read_text())["cell"]
    assert set(cell["prepool"]) == set(cell["on_views"]) == {"digit", "speaker", "noise"}
    first, last = cell["curve"]
    assert {f"{task} by neighbours" for task in cell["test"]} < set(first)
    assert 0 < first["noise by neighbours"] <= 100
    assert "noise" not in last  # whose probes are the cell's


def test_nearest():
    """A neighbour of every test input is of its class where labels count, and of another elsewhere."""
    x = torch.eye(2).repeat(20, 1)
    train = {"views": [x], "digit": torch.arange(40) % 2}
    test = {"views": [x], "digit": torch.where(torch.arange(40) < 20, torch.arange(40) % 2, -1)}

    encoder = nn.Linear(2, 2, bias=False)
    nn.init.eye_(encoder.weight)
    assert nearest(encoder, Whole(train), test, ["digit"], 3) == {"digit by neighbours": 100.0}
    test["digit"] = 1 - test["digit"].clamp(0)
    assert nearest(encoder, Whole(train), test, ["digit"], 3)["digit by neighbours"] < 50


def test_quick_preset_and_report(tmp_path, capsys):
    start = time.monotonic()
    multitask_audio.main(["--preset", "quick", "--workers", "1", "--mixtures", "both", "--out", str(tmp_path)])
    assert time.monotonic() - start < 150
    assert capsys.readouterr().out.strip().endswith("report.md")
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {method} |" in text for method in AudioExperiment.methods)
    assert "| 53.6 | 43.3 |" in text  # the paper's
    assert "| epochs | 200 | 1 |" in text  # a departure from the paper
    for figure in ("curves.png", "views-both.png", "destruction-both.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
        assert f"({figure})" in text
    cell = json.loads((tmp_path / "cells" / "both-learned-0.json").read_text())["cell"]
    assert set(cell["test"]) == {"digit", "speaker", "noise"}
    assert all(0 <= value <= 100 for value in cell["test"].values())
    assert viewaug.load(tmp_path / "viewmakers" / "both-waveform-learned-0.safetensors").dims == 1
    (tmp_path / "report.md").unlink()
    multitask_audio.main(["report", "--out", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == text


def test_paper_preset_for_a_step(tmp_path, monkeypatch):
    """In miniature but for its spectrograms, its probes and its views in probe training."""
    paper = PRESETS["paper"]
    small = replace(
        paper,
        speech="synthetic",
        clips=100,
        training=replace(paper.training, encoder="small", epochs=1, batch=8, difficulty=0.3),
    )
    monkeypatch.setitem(PRESETS, "paper", small)
    arguments = ["--preset", "paper", "--mixtures", "noise", "--methods", "learned", "--seeds", "1", "--workers", "1"]
    multitask_audio.main([*arguments, "--max-steps", "2", "--out", str(tmp_path)])
    cell = json.loads((tmp_path / "cells" / "noise-learned-0.json").read_text())["cell"]
    assert set(cell["test"]) == set(cell["prepool"]) == set(cell["on_views"]) == {"noise"}
    assert cell["reached"]["budget"] != 0.125
    x = torch.zeros(1, 1, paper.length)
    assert AudioExperiment().as_seen("noise", small, x).shape == (1, 1, 64, 64)
