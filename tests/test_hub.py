"""Viewmakers of the package, in folders, and on the Hub, of which there is a double: no test uses the network."""

import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch
from viewaug.examples import demo, trained, transfer

import viewaug
from viewaug import Viewmaker, hub
from viewaug.checkpoints import FILE, TRAINED, shipped
from viewaug.cli import main
from viewaug.comparison import Comparison

ROOT = Path(__file__).parents[1]
SIZES = {"photographs": (32, 32), "digits-on-photographs": (32, 32), "log-mel": (40, 63), "smartwatch": (128,)}


def same(one: Viewmaker, other: Viewmaker) -> bool:
    x = torch.rand(2, one.channels, *(8,) * one.dims)
    noise = one.draw_noise(x)
    return torch.equal(one(x, noise), other(x, noise))


def test_folders(tmp_path):
    viewmaker = Viewmaker(1, dims=1, perturbation=["mask", "additive"], budget=0.03, value_range=None)
    folder = viewmaker.save_pretrained(tmp_path / "mine", notes="Trained on *noise*.")
    assert same(viewmaker, Viewmaker.from_pretrained(folder))
    assert same(viewmaker, Viewmaker.from_pretrained(str(folder)))
    assert same(viewmaker, viewaug.load(folder / "viewmaker.safetensors"))
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: viewaug\n")
    assert "Trained on *noise*." in card
    assert '| perturbation | ["mask", "additive"] |' in card
    assert viewaug.__version__ in card
    assert same(viewmaker, viewaug.load(folder))


def test_nothing_else_in_a_folder_is_read(tmp_path):
    viewmaker = Viewmaker(width=8, depth=1)
    folder = viewmaker.save_pretrained(tmp_path)
    (folder / "README.md").write_bytes(b"---\nlibrary_name: !!python/object/apply:os.system [exit]\n\xff")
    (folder / "config.json").write_text("no")
    (folder / "viewmaker.py").write_text("raise SystemExit")
    assert same(viewmaker, Viewmaker.from_pretrained(folder))


def test_repositories(tmp_path, monkeypatch):
    """A double of the four calls that are made."""
    calls = []

    def download(name, file, revision=None):
        calls.append((name, revision))
        return str(tmp_path / file)

    def upload(repo_id, folder_path):
        for file in Path(folder_path).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())

    double = types.SimpleNamespace(
        hf_hub_download=download, upload_folder=upload, create_repo=lambda name, **options: f"https://hub/{name}"
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", double)
    viewmaker = Viewmaker(width=8, depth=1)
    assert viewmaker.push_to_hub("me/mine", notes="Mine.") == "https://hub/me/mine"
    assert same(viewmaker, Viewmaker.from_pretrained("me/mine", revision="v1"))
    assert calls == [("me/mine", "v1")]
    assert "Mine." in (tmp_path / "README.md").read_text()


def test_errors(tmp_path, monkeypatch):
    for name in ("nowhere", "./no/where", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="photographs, smartwatch, a folder, or a repository"):
            Viewmaker.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="photographs, smartwatch, but found none at nowhere"):
        viewaug.load("nowhere")
    with pytest.raises(FileNotFoundError, match=r"viewmaker\.safetensors"):
        Viewmaker.from_pretrained(tmp_path)
    (tmp_path / "viewmaker.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors file"):
        hub.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        Viewmaker.from_pretrained("me/mine")


class TestShipped:
    def test_names(self):
        assert shipped() == sorted(SIZES) == sorted(trained.RECIPES)

    @pytest.mark.parametrize("name", SIZES)
    def test_views(self, name):
        """They are within their budgets, which are in standard deviations, and differ."""
        viewmaker = viewaug.load(name)
        assert viewmaker.units == "std"
        assert (TRAINED / name / FILE).stat().st_size < 300_000
        torch.manual_seed(0)
        x = torch.randn(16, viewmaker.channels, *SIZES[name])
        x = x if viewmaker.value_range is None else torch.sigmoid(x)
        with torch.no_grad():
            views = viewmaker(x), viewmaker(x)
        for view in views:
            realised = viewaug.distortion(x, view) / x.flatten(1).std(1, correction=0)
            assert realised.max() <= 1.0001 * viewmaker.budget
            assert realised.mean() > 0.5 * viewmaker.budget
        assert not torch.equal(*views)

    @pytest.mark.parametrize("name", SIZES)
    def test_cards(self, name):
        card = hub.card_file(name).read_text()
        about = hub.read_card(name)
        assert about.keys() >= {"made for", "data", "licence of the data", "strength", "distortion", "command"}
        assert any(fact.startswith("destroys ") for fact in about)
        assert f"viewaug.examples.trained {name}" in about["command"]
        notes = f'`viewaug.load("{name}")` loads it from the package.'
        again = hub.card(viewaug.load(name), about, notes)
        assert card.rpartition("\n\n")[0] == again.rpartition("\n\n")[0]  # but for the versions

    def test_the_wheel_has_them(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        patterns = project["tool"]["setuptools"]["package-data"]["viewaug"]
        packed = {file for pattern in patterns for file in (ROOT / "viewaug").glob(pattern)}
        assert packed >= {file for file in TRAINED.rglob("*") if file.is_file()}

    def test_they_go_before_files_of_the_same_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        viewaug.save(Viewmaker(1, budget=0.5), "photographs")
        assert viewaug.load("photographs").channels == 3
        assert Viewmaker.from_pretrained("photographs").channels == 3
        assert viewaug.load(Path("photographs")).channels == 3
        assert viewaug.load(tmp_path / "photographs").channels == 1

    def test_command(self, capsys, tmp_path):
        assert main(["hub"]) == 0
        printed = capsys.readouterr().out
        assert printed.index("made for") < printed.index("natural photographs")
        assert all(name in printed for name in SIZES)
        assert main(["hub", "smartwatch"]) == 0
        assert "seglearn" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["hub", str(tmp_path)])
        assert "one of digits-on-photographs, log-mel, photographs, smartwatch, or a folder" in capsys.readouterr().err


class TestCards:
    def test_what_is_measured(self, tmp_path):
        viewmaker = Viewmaker(1, dims=1, units="std", value_range=None, budget=0.25)
        about = {"made for": "sines | cosines", "data": "none"}
        viewmaker.save_pretrained(tmp_path, about=about, examples=5 * torch.randn(8, 1, 64))
        found = hub.read_card(tmp_path)
        assert found.pop("distortion") == "mean 0.25 standard deviations, from 0.25 to 0.25, of 8 views"
        assert found == about
        assert "| made for | sines \\| cosines |" in (tmp_path / "README.md").read_text()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('viewaug: {"card": 2, "facts": []}', "a card of format 2; this viewaug reads format 1"),
            ('viewaug: {"card": 1}', "no card of a viewmaker"),
            ('viewaug: {"card": 1, "about": 3}', "no card of a viewmaker"),
            ("viewaug: [", "no card of a viewmaker"),
            ("", "no card of a viewmaker"),
        ],
    )
    def test_of_others(self, line, message, tmp_path, capsys):
        (tmp_path / "README.md").write_text(f"---\n{line}\n---\n")
        with pytest.raises(ValueError, match=message):
            hub.read_card(tmp_path)
        with pytest.raises(SystemExit):
            main(["hub", str(tmp_path)])
        assert message in capsys.readouterr().err


class TestExamples:
    def test_trained(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(trained, "_LOOK", 8)
        trained.main(["smartwatch", "--steps", "2", "--out", str(tmp_path)])
        about = hub.read_card(tmp_path / "smartwatch")
        assert about["command"] == f"`python -m viewaug.examples.trained smartwatch --steps 2 --out {tmp_path.name}`"
        assert about.keys() == hub.read_card("smartwatch").keys()
        assert viewaug.load(tmp_path / "smartwatch").channels == 6
        assert "seglearn" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            trained.main(["photographs", "--data", str(tmp_path / "absent.npz"), "--out", str(tmp_path)])
        assert "no file or folder" in capsys.readouterr().err

    def test_transfer(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(demo, "TRAIN", 200)
        monkeypatch.setattr(demo, "TEST", 60)
        transfer.main(["photographs-digits", "--seeds", "2", "--steps", "2", "--out", str(tmp_path)])
        assert "frozen:photographs" in capsys.readouterr().out
        found = {"photographs-digits": Comparison.read(tmp_path / "photographs-digits" / "results.json")}
        assert "`frozen` less `learned`" in transfer.differences(found)
        assert " 2 steps" in transfer.prices(found)
