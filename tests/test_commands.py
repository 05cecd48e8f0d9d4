"""``viewaug views``, ``info`` and ``extract``: what they read, write, print and refuse."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

import viewaug
from viewaug import plots
from viewaug.checkpoints import header
from viewaug.cli import main
from viewaug.perturbations import PERTURBATIONS

PNG = b"\x89PNG"


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)


def picture(file: Path, width: int, height: int, channels: int = 3) -> np.ndarray:
    pixels = (255 * array(height, width, channels)).astype(np.uint8)
    Image.fromarray(pixels.squeeze()).save(file)
    return pixels


def checkpoint(folder: Path, dtype: torch.dtype = torch.float32, **options) -> Path:
    torch.manual_seed(0)
    viewaug.save(viewaug.Viewmaker(**options).to(dtype), folder / "viewmaker.safetensors")
    return folder / "viewmaker.safetensors"


def pictures(folder: Path) -> None:
    picture(folder / "a.png", 40, 30)
    picture(folder / "b.JPG", 24, 50, channels=1)


def sounds(folder: Path) -> None:
    soundfile.write(folder / "a.wav", array(100) - 0.5, 8000)
    soundfile.write(folder / "b.flac", array(90, 2) - 0.5, 8000)


def arrays(*shapes: tuple[int, ...]):
    def write(folder: Path) -> None:
        for shape in shapes:
            np.save(folder / f"{len(shape)}.npy", array(*shape))

    return write


# What a viewmaker takes, what writes files of it, and the batch that comes of them.
KINDS = {
    "colour": ({}, pictures, (2, 3, 24, 24)),
    "grey": ({"channels": 1}, pictures, (2, 1, 24, 24)),
    "signed": ({"value_range": (-1, 1)}, pictures, (2, 3, 24, 24)),
    "reference": ({"generator": "reference"}, pictures, (2, 3, 24, 24)),
    "waveform": ({"channels": 1, "dims": 1, "value_range": (-1, 1)}, arrays((1, 90), (100,)), (2, 1, 90)),
    "spectrogram": ({"channels": 1, "value_range": None}, arrays((12, 9), (1, 10, 11)), (2, 1, 10, 9)),
    "bands": ({"channels": 13}, arrays((13, 6, 5)), (1, 13, 6, 5)),
    "series": ({"channels": 12, "dims": 1, "value_range": None}, arrays((12, 40)), (1, 12, 40)),
    "volume": ({"channels": 1, "dims": 3}, arrays((4, 6, 5), (1, 5, 6, 4)), (2, 1, 4, 6, 4)),
}


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "notes.txt").write_text("neither an image nor a sound")
    return tmp_path / "inputs"


@pytest.fixture
def drawn(monkeypatch):
    """The arguments that view_grid is called with."""
    calls, view_grid = [], plots.view_grid

    def spy(x, views, **options):
        calls.append({"x": x, "views": views, **options})
        return view_grid(x, views, **options)

    monkeypatch.setattr(plots, "view_grid", spy)
    return calls


def arguments(command: str, file: Path, inputs: Path, *more: object) -> list[str]:
    out = ["--out", inputs.parent / "grid.png"] if command == "views" else []
    return [str(argument) for argument in (command, "--checkpoint", file, "--images", inputs, *out, *more)]


def refused(line: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as error:
        main(line)
    printed = capsys.readouterr()
    assert not printed.out
    return error.value.code, printed.err


def told(capsys) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    return {line[:14].rstrip(): line[15:] for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_the_viewmaker_takes(inputs, drawn, capsys, kind):
    options, write, shape = KINDS[kind]
    write(inputs)
    file, out = checkpoint(inputs.parent, **options), inputs.parent / "grid.png"
    assert main(arguments("views", file, inputs)) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(PNG)
    assert {path.name for path in inputs.parent.iterdir()} == {"grid.png", "inputs", file.name}
    (call,) = drawn
    assert call["x"].shape == shape
    assert call["value_range"] == viewaug.load(file).value_range
    assert call["amplify"] == 5
    assert len(call["views"]) == 3
    for view in call["views"]:
        torch.testing.assert_close(viewaug.distortion(call["x"], view), torch.full((len(view),), 0.05))
    assert not torch.equal(*call["views"][:2])

    assert main(arguments("info", file, inputs)) == 0
    size = "x".join(map(str, shape[1:]))
    expected = f"mean 0.05, from 0.05 to 0.05, of {shape[0]} views of {size} from {inputs}"
    assert told(capsys)["distortion"] == expected


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_values_of_images(inputs, drawn, value_range):
    pixels = np.stack([picture(inputs / f"{i}.png", 12, 12) for i in range(2)])
    main(arguments("views", checkpoint(inputs.parent, value_range=value_range), inputs, "--views", 1))
    unit = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    low, high = value_range
    torch.testing.assert_close(drawn[0]["x"], low + (high - low) * unit)


def test_values_of_converted_images(inputs, drawn):
    picture(inputs / "a.png", 12, 12)
    grey = torch.from_numpy(picture(inputs / "b.png", 12, 12, channels=1).squeeze()) / 255
    main(arguments("views", checkpoint(inputs.parent), inputs))
    torch.testing.assert_close(drawn[0]["x"][1], grey.expand(3, -1, -1))
    main(arguments("views", checkpoint(inputs.parent, channels=1), inputs))
    luma = torch.from_numpy(np.array(Image.open(inputs / "a.png").convert("L"))) / 255
    torch.testing.assert_close(drawn[1]["x"], torch.stack([luma, grey])[:, None])


def test_images_stand_upright_and_hidden_files_are_none(inputs, drawn):
    """A camera says in EXIF how it was held; macOS leaves a file ._name beside each on other disks."""
    levels = picture(inputs / "a.png", 12, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.open(inputs / "a.png").save(inputs / "a.png", exif=exif)
    (inputs / "._a.png").write_text("no image")
    main(arguments("views", checkpoint(inputs.parent), inputs, "--size", 12))
    turned = torch.from_numpy(np.rot90(levels, -1).copy()).permute(2, 0, 1) / 255
    got = drawn[0]["x"]
    assert len(got) == 1
    torch.testing.assert_close(got[0], turned)


def test_sixteen_bit_images_keep_their_contrast(inputs, drawn):
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(inputs / "a.png")
    main(arguments("views", checkpoint(inputs.parent, channels=1), inputs))
    torch.testing.assert_close(drawn[0]["x"][0, 0].numpy(), levels.astype(np.float32) / 65535, rtol=0, atol=1 / 255)


def test_views_of_sounds_are_heard_and_seen(inputs, drawn, capsys):
    sounds(inputs)
    file = checkpoint(inputs.parent, channels=1, dims=1, value_range=None)
    assert main(arguments("views", file, inputs, "--size", 51, "--views", 2)) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = [f"grid-{name}-view{k}.wav" for name in "ab" for k in (1, 2)]
    assert [path.name for path in written] == ["grid.png", *names]
    stereo = torch.from_numpy(array(90, 2)[19:70].mean(1) - 0.5)[None]  # the middle
    heard = [torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None] for path in written[3:]]
    assert soundfile.info(written[3]).samplerate == soundfile.info(inputs / "b.flac").samplerate
    for view in heard:
        torch.testing.assert_close(viewaug.distortion(stereo, view), torch.tensor([0.05]), rtol=0, atol=1e-4)
    assert not torch.equal(*heard)
    (call,) = drawn  # spectrograms, in dB
    assert call["x"].shape == (2, 1, 26, 5)
    assert call["value_range"] is None
    assert len(call["views"]) == 2


def test_a_single_file(inputs, drawn, capsys):
    rate, t = 8000, np.arange(8000) / 8000
    soundfile.write(inputs / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate)
    file = checkpoint(inputs.parent, channels=1, dims=1, value_range=None)
    main(arguments("views", file, inputs / "tone.wav", "--views", 1))
    spectrum = drawn[0]["x"][0, 0, :, 20]
    assert spectrum.argmax() == 1000 / (rate / 512)
    assert spectrum.max() - spectrum.min() <= 80
    assert soundfile.info(inputs / "grid-tone-view1.wav").frames == 8000
    capsys.readouterr()
    assert "notes.txt" in refused(arguments("views", file, inputs / "notes.txt"), capsys)[1]


def test_values_of_arrays(inputs, drawn):
    np.save(inputs / "a.npy", array(1, 8).astype(np.float64))
    main(arguments("views", checkpoint(inputs.parent, channels=1, dims=1, value_range=None), inputs))
    assert drawn[0]["x"].dtype == torch.float32
    assert np.array_equal(drawn[0]["x"][0].numpy(), array(1, 8))


@pytest.mark.parametrize("name", [*PERTURBATIONS, "spectral+mask"])
def test_every_perturbation(inputs, drawn, name):
    specs = {"kornia": {"name": "kornia", "op": "RandomSharpness", "sharpness": 0.5}, "spectral+mask": name.split("+")}
    dims = 1 if name in PERTURBATIONS and 2 not in PERTURBATIONS[name].dims else 2
    for file in ("a.npy", "b.npy"):
        np.save(inputs / file, array(3, *(16,) * dims) / (1 + (file == "b.npy")))
    file = checkpoint(inputs.parent, dims=dims, perturbation=specs.get(name, name))
    assert main(arguments("views", file, inputs, "--views", 1)) == 0
    realised = viewaug.distortion(drawn[0]["x"], drawn[0]["views"][0])
    assert 1e-4 < realised.max() <= 0.05 + 1e-6
    assert (inputs.parent / "grid.png").read_bytes().startswith(PNG)


def test_options_of_views(inputs, drawn):
    for name in "cab":
        picture(inputs / f"{name}.png", 12 + ord(name) % 3, 12)
    file = checkpoint(inputs.parent)
    main(arguments("views", file, inputs, "--count", 2, "--views", 1, "--size", 10, "--amplify", 2.5))
    main(arguments("views", file, inputs, "--count", 9, "--views", 1))
    (few, all_of_them) = drawn
    assert few["x"].shape == (2, 3, 10, 10)
    assert len(few["views"]) == 1
    assert few["amplify"] == 2.5
    assert all_of_them["x"].shape == (3, 3, 12, 12)
    first = torch.from_numpy(np.array(Image.open(inputs / "a.png"))).permute(2, 0, 1)[:, :, :12] / 255  # 13 wide
    torch.testing.assert_close(all_of_them["x"][0], first)


def test_seed(inputs, drawn):
    picture(inputs / "a.png", 12, 12)
    file, figures = checkpoint(inputs.parent), []
    for seed in (1, 1, 2):
        main(arguments("views", file, inputs, "--seed", seed))
        figures.append((inputs.parent / "grid.png").read_bytes())
    assert figures[0] == figures[1] != figures[2]
    noise = viewaug.load(file).draw_noise(drawn[0]["x"], torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(viewaug.load(file)(drawn[0]["x"], noise), drawn[0]["views"][0])


@pytest.mark.parametrize(("name", "start"), [("new/deep/grid.pdf", b"%PDF"), ("grid.svg", b"<?xml"), ("g.PNG", PNG)])
def test_formats(inputs, capsys, name, start):
    picture(inputs / "a.png", 8, 8)
    out = inputs.parent / name
    main(arguments("views", checkpoint(inputs.parent), inputs, "--out", out, "--views", 1))
    assert out.read_bytes().startswith(start)
    assert capsys.readouterr().out == f"{out}\n"


def test_a_failing_run_leaves_the_old_figure(inputs, capsys, monkeypatch):
    picture(inputs / "a.png", 8, 8)
    out = inputs.parent / "grid.png"
    out.write_bytes(b"old")

    def fail(figure, file, **options):
        Path(file).write_bytes(b"half a fig")
        assert out.read_bytes() == b"old"
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    code, error = refused(arguments("views", checkpoint(inputs.parent), inputs), capsys)
    assert code == 1
    assert error == "viewaug views: no space left\n"
    assert out.read_bytes() == b"old"
    assert {path.name for path in inputs.parent.iterdir()} == {"grid.png", "inputs", "viewmaker.safetensors"}


@pytest.mark.parametrize("command", ["views", "info"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint", "absent.safetensors"], "absent.safetensors"),
        (["--checkpoint", "inputs/notes.txt"], "notes.txt"),
        (["--checkpoint", "inputs"], "inputs"),
        (["--images", "absent"], "absent"),
        (["--images", "inputs/notes.txt"], "notes.txt"),
        (["--images", "."], ".png"),  # a folder without inputs
        (["--count", "0"], "--count"),
        (["--count", "-1"], "--count"),
        (["--count", "two"], "--count"),
        (["--size", "0"], "--size"),
        (["--size", "1.5"], "--size"),
        (["--seed", "x"], "--seed"),
        (["--seed", str(2**70)], "seed"),
        (["--dance"], "--dance"),
    ],
)
def test_bad_arguments(inputs, capsys, monkeypatch, command, more, message):
    picture(inputs / "a.png", 8, 8)
    monkeypatch.chdir(inputs.parent)
    code, error = refused(arguments(command, checkpoint(inputs.parent), inputs, *more), capsys)
    assert code in (1, 2)
    assert message in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith(f"viewaug {command}: ")
    assert not Path("grid.png").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--views", "0"], "--views"),
        (["--amplify", "0"], "--amplify"),
        (["--amplify", "-2"], "--amplify"),
        (["--amplify", "nan"], "--amplify"),
        (["--amplify", "inf"], "--amplify"),
        (["--out", "grid.xyz"], "'xyz'"),
        (["--out", "grid"], "grid"),  # no suffix
        (["--out", "inputs/a.png/grid.png"], "inputs/a.png"),  # no folder
    ],
)
def test_bad_arguments_of_views(inputs, capsys, monkeypatch, more, message):
    picture(inputs / "a.png", 8, 8)
    monkeypatch.chdir(inputs.parent)
    code, error = refused(arguments("views", checkpoint(inputs.parent), inputs, *more), capsys)
    assert code in (1, 2)
    assert message in error.splitlines()[-1]
    assert str(os.getpid()) not in error
    assert {path.name for path in Path().iterdir()} == {"inputs", "viewmaker.safetensors"}


@pytest.mark.parametrize("required", ["--checkpoint", "--images", "--out"])
def test_what_views_requires(inputs, capsys, required):
    line = arguments("views", checkpoint(inputs.parent), inputs)
    at = line.index(required)
    code, error = refused(line[:at] + line[at + 2 :], capsys)
    assert code == 2
    assert required in error.splitlines()[-1]


def npy(file: Path, content: np.ndarray) -> None:
    np.save(file, content, allow_pickle=True)


def cut(file: Path, start: int, length: int, by: bytes = b"") -> None:
    """Write a picture with some bytes replaced."""
    picture(file, 30, 30)
    content = file.read_bytes()
    file.write_bytes(content[:start] + by + content[start + length :])


BROKEN = {
    "text.png": lambda file: file.write_text("no image"),
    "empty.png": lambda file: file.write_bytes(b""),
    "truncated.png": lambda file: cut(file, 1000, 10**6),
    "chunk.png": lambda file: cut(file, 33, 4, b"\0\0\0\n"),  # the wrong length of the first chunk of pixels
    "huge.bmp": lambda file: cut(file, 18, 8, b"\0\0\1\0" * 2),  # 65536 x 65536 pixels
    "truncated.jpg": lambda file: cut(file, 300, 10**6),
    "folder.png": lambda file: file.mkdir(),
    "channels.npy": lambda file: npy(file, array(4, 8, 8)),
    "grey.npy": lambda file: npy(file, array(8, 8)),
    "batch.npy": lambda file: npy(file, array(1, 3, 8, 8)),
    "text.npy": lambda file: file.write_text("no array"),
    "empty.npy": lambda file: file.write_bytes(b""),
    "header.npy": lambda file: file.write_bytes(b"\x93NUMPY\1\0\n\0{'descr': "),
    "truncated.npy": lambda file: file.write_bytes(b"\x93NUMPY\1\0v\0{'descr'"),
    "pickle.npy": lambda file: npy(file, np.full((3, 8, 8), None)),
    "strings.npy": lambda file: npy(file, np.full((3, 8, 8), "a")),
    "zip.npy": lambda file: np.savez(file.open("wb"), array(3, 8, 8)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_inputs(inputs, capsys, name):
    BROKEN[name](inputs / name)
    for command in ("views", "info"):
        code, error = refused(arguments(command, checkpoint(inputs.parent), inputs), capsys)
        assert code == 1
        assert error.startswith(f"viewaug {command}: ")
        assert name in error
    assert not (inputs.parent / "grid.png").exists()


def test_broken_sounds_and_inputs_of_another_kind(inputs, capsys):
    file = checkpoint(inputs.parent, channels=1, dims=1)
    picture(inputs / "a.png", 8, 8)
    assert ".wav" in refused(arguments("views", file, inputs), capsys)[1]
    (inputs / "a.wav").write_text("silence")
    assert "a.wav" in refused(arguments("views", file, inputs), capsys)[1]
    sounds(inputs)
    assert ".npy" in refused(arguments("info", checkpoint(inputs.parent), inputs, "--images", inputs.parent), capsys)[1]
    (inputs / "a.png").unlink()
    assert "none" in refused(arguments("info", checkpoint(inputs.parent), inputs), capsys)[1]


def test_info_of_a_small_configuration(tmp_path, capsys):
    options = {"channels": 1, "budget": 0.07, "width": 4, "depth": 1, "patch": 2, "noise": 3}
    file = checkpoint(tmp_path, **options)
    assert main(["info", "--checkpoint", str(file), "--size", "7", "--count", "9"]) == 0
    lines = told(capsys)
    for name, value in viewaug.load(file).config.items():
        assert lines[name] == str(value)
    assert {name: str(value) for name, value in options.items()}.items() <= lines.items()
    # Stem, two convolutions of 3 x 3, noise as a field and as numbers, head, patterns of 4 x 4.
    parameters = (4 * 4 + 4) + 2 * (4 * 4 * 9 + 4) + 3 * 4 + 3 * 4 + (4 + 1) + 4 * 16
    assert lines["parameters"] == f"{parameters:,}"
    grid = 4 * 4  # patches of 2 x 2 on 7 x 7, rounded up
    products = grid * (4 * 4 + 2 * 4 * 4 * 9 + 3 * 4) + 3 * 4 + 4 + 5 * 5 * 4 * 4 * 4  # the head's are of the mean
    assert lines["multiply-adds"].split(" in ")[0] == f"{products:,} a view of 1x7x7,"
    assert lines["distortion"] == "mean 0.07, from 0.07 to 0.07, of 9 views of 1x7x7 from uniform noise"


def test_info_of_what_falls_short_of_the_budget(tmp_path, capsys):
    """It is the measured distortion, of which the mean lies between the ends."""
    file = checkpoint(tmp_path, perturbation="colour", budget=0.5)
    printed = []
    for seed in (0, 0, 1):
        main(["info", "--checkpoint", str(file), "--size", "8", "--seed", str(seed)])
        printed.append(told(capsys)["distortion"])
    assert printed[0] == printed[1] != printed[2]
    words = printed[0].replace(",", "").split()
    mean, low, high = (float(words[i]) for i in (1, 3, 5))
    assert 0 < low < mean < high < 0.5
    assert "of 64 views of 3x8x8" in printed[0]


def test_info_measures_every_input(inputs, capsys):
    """Of nine images the last alone has something to blur."""
    for i in range(9):
        np.save(inputs / f"{i}.npy", array(3, 8, 8) if i == 8 else np.full((3, 8, 8), 0.5, np.float32))
    main(arguments("info", checkpoint(inputs.parent, perturbation="blur"), inputs))
    words = told(capsys)["distortion"].replace(",", "").split()
    mean, low, high = (float(words[i]) for i in (1, 3, 5))
    assert low < 1e-6
    assert high > 0.01
    assert mean == pytest.approx(high / 9, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(inputs, drawn, capsys, dtype):
    pictures(inputs)
    file = checkpoint(inputs.parent, dtype)
    main(arguments("views", file, inputs, "--views", 1))
    assert all(view.dtype == torch.float32 for view in drawn[0]["views"])
    capsys.readouterr()
    main(arguments("info", file, inputs))
    lines = told(capsys)
    assert lines["distortion"].startswith("mean 0.05, from 0.05 to 0.05, of 2 views")
    assert lines["parameters"] == f"{sum(p.numel() for p in viewaug.Viewmaker().parameters()):,}"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("views", ["--checkpoint", "--images", "--out", "--count", "--views", "--size", "--amplify", "--seed"]),
        ("info", ["--checkpoint", "--images", "--count", "--size", "--seed"]),
    ],
)
def test_help(capsys, command, options):
    with pytest.raises(SystemExit) as error:
        main([command, "--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: viewaug {command}" in printed
    assert all(f"  {option}" in printed for option in options)


def test_installed_script(inputs):
    pictures(inputs)
    checkpoint(inputs.parent)
    run = subprocess.run(
        [Path(sys.executable).with_name("viewaug"), *arguments("views", Path("viewmaker.safetensors"), Path("inputs"))],
        cwd=inputs.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "grid.png\n"
    assert (inputs.parent / "grid.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, 1j])
def test_values_that_do_not_fit(inputs, capsys, value):
    np.save(inputs / "a.npy", np.full((3, 8, 8), value))
    code, error = refused(arguments("info", checkpoint(inputs.parent), inputs), capsys)
    assert code == 1
    assert "a.npy" in error


class TestExtract:
    """The viewmaker in a host's checkpoint, whatever else is in there."""

    @pytest.fixture
    def viewmaker(self):
        torch.manual_seed(0)
        return viewaug.Viewmaker(width=8, depth=1, budget=0.07)

    @staticmethod
    def checkpoint(folder, viewmaker, prefix="viewmaker.", **more):
        state = {f"{prefix}{name}": value for name, value in viewmaker.state_dict().items()}
        state |= {"backbone.conv1.weight": torch.zeros(2, 2), "backbone.generator.weight": torch.zeros(1)}
        torch.save({"state_dict": state, "epoch": 3, **more}, folder / "run.ckpt")
        return folder / "run.ckpt"

    @staticmethod
    def extracted(file, *options):
        main(["extract", str(file), "--out", str(file.parent / "v.safetensors"), *options])
        return viewaug.load(file.parent / "v.safetensors")

    @pytest.mark.parametrize("prefix", ["viewmaker.", "model.viewmaker.", "_orig_mod.module.viewmaker."])
    def test_what_the_checkpoint_says(self, prefix, viewmaker, tmp_path):
        found = self.extracted(self.checkpoint(tmp_path, viewmaker, prefix, viewaug=header(viewmaker)))
        x = torch.rand(2, 3, 8, 8)
        noise = viewmaker.draw_noise(x)
        assert found.config == viewmaker.config
        assert torch.equal(found(x, noise), viewmaker(x, noise))

    def test_what_the_user_says(self, viewmaker, tmp_path):
        file = self.checkpoint(tmp_path, viewmaker, "view.")
        config = json.dumps({"width": 8, "depth": 1, "budget": 0.07})
        assert self.extracted(file, "--config", config, "--prefix", "view.").config == viewmaker.config

    def test_random_views_have_no_weights(self, tmp_path):
        viewmaker = viewaug.Viewmaker(generator="random", perturbation="mix", budget=None)
        assert (
            self.extracted(self.checkpoint(tmp_path, viewmaker, viewaug=header(viewmaker))).config == viewmaker.config
        )

    def test_nothing_is_executed(self, viewmaker, tmp_path, monkeypatch):
        """Hosts put objects of their own into checkpoints; and so may anybody."""
        monkeypatch.chdir(tmp_path)
        more = {"hyper_parameters": OmegaConf.create({"a": [1, {"b": 2}]}), "evil": Evil(), "path": Path("x")}
        found = self.extracted(self.checkpoint(tmp_path, viewmaker, viewaug=header(viewmaker), **more))
        assert found.config == viewmaker.config
        assert not (tmp_path / "pwned").exists()

    def test_of_lightning(self, tmp_path):
        from lightning.pytorch import LightningModule, Trainer
        from viewaug.adapters.lightning import ViewmakerCallback

        class Module(LightningModule):
            def __init__(self, width):
                super().__init__()
                self.save_hyperparameters()
                self.net = torch.nn.Conv2d(3, width, 3)

            def training_step(self, batch, index):
                return self.net(batch).square().mean()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        own = ViewmakerCallback(viewaug.Viewmaker(width=8, depth=1), budget=lambda step: 0.01 * (1 + step))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[own], default_root_dir=tmp_path, **quiet)
        trainer.fit(Module(4), torch.utils.data.DataLoader(torch.rand(8, 3, 8, 8), batch_size=4))
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        found = self.extracted(tmp_path / "run.ckpt")
        assert found.budget == pytest.approx(0.02)
        for name, value in own.viewmaker.state_dict().items():
            assert torch.equal(found.state_dict()[name], value)

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ({"state_dict": {"net.w": torch.zeros(1)}, "epoch": 1}, [], "give --config. It holds state_dict, epoch"),
            ({"net.w": torch.zeros(1)}, ["--config", "{}"], "parameters in .*, but found net.w"),
            ({"state_dict": {}}, ["--config", "{"], "--config to be JSON"),
            ({"state_dict": {}}, ["--config", "[]"], "JSON object"),
            ([1], [], "a dictionary, but it holds a list"),
            ({"state_dict": [1]}, [], "`state_dict` in .* to be a dictionary, but it is a list"),
            (None, [], "run.ckpt cannot be read"),
        ],
    )
    def test_errors(self, content, options, message, tmp_path, capsys):
        file = tmp_path / "run.ckpt"
        file.write_bytes(b"no") if content is None else torch.save(content, file)
        with pytest.raises(SystemExit) as error:
            self.extracted(file, *options)
        assert error.value.code == 1
        assert re.search(message, capsys.readouterr().err)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_doctor(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("viewaug", "torch", "kornia", "lightning", "self-test      passed"):
        assert name in printed
    monkeypatch.setattr("viewaug.distortion", lambda x, view: torch.zeros(len(x)))
    assert main(["doctor"]) == 1
    assert "failed: RuntimeError: a view missed its budget" in capsys.readouterr().out
