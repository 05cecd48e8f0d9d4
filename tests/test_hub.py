"""Viewmakers in folders and on the Hub, of which there is a double: nothing is downloaded or uploaded in tests."""

import sys
import types
from pathlib import Path

import pytest
import torch

import viewaug
from viewaug import Viewmaker, hub


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
        with pytest.raises(FileNotFoundError, match="a folder, or a repository"):
            Viewmaker.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match=r"viewmaker\.safetensors"):
        Viewmaker.from_pretrained(tmp_path)
    (tmp_path / "viewmaker.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors file"):
        hub.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        Viewmaker.from_pretrained("me/mine")
