"""Viewmakers in folders and on the Hugging Face Hub: one file that `viewaug.load` reads, and a card."""

import json
from pathlib import Path
from typing import Any

import torch

import viewaug
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.checkpoints import load, save
from viewaug.viewmaker import Viewmaker

FILE, CARD = "viewmaker.safetensors", "README.md"


def save_pretrained(viewmaker: Viewmaker, folder: str | Path, *, notes: str = "") -> Path:
    """Save a viewmaker and its card in a folder.

    Args:
        viewmaker: what to save.
        folder: where to; files of these names are replaced, each in one go.
        notes: for the card, in Markdown: what it was trained on and for, the data's licence, what was measured.

    Examples:
        >>> folder = save_pretrained(viewaug.Viewmaker(1, budget=0.1), getfixture("tmp_path"), notes="Untrained.")
        >>> from_pretrained(folder).budget
        0.1
    """
    folder = Path(folder)
    save(viewmaker, folder / FILE)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(card(viewmaker, notes), encoding="utf-8")
    return folder


def from_pretrained(name: str | Path, *, revision: str | None = None) -> Viewmaker:
    """Load a viewmaker from a folder, or from a repository of the Hugging Face Hub, which is downloaded.

    Args:
        name: a folder that :func:`save_pretrained` wrote, or a repository such as ``"somebody/viewmaker"``.
        revision: of the repository.

    Raises:
        FileNotFoundError: if it is neither.
        ImportError: for a repository, if huggingface_hub is not installed.
        ValueError: if the file is not a viewmaker's.
    """
    folder = Path(name)
    if folder.is_dir():
        return load(folder / FILE)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"Expected a folder, or a repository such as somebody/viewmaker, but got {str(name)!r}."
        )
    return load(_hub().hf_hub_download(str(name), FILE, revision=revision))


def push_to_hub(viewmaker: Viewmaker, name: str, *, notes: str = "", private: bool = False) -> str:
    """Upload a viewmaker and its card to a repository of the Hugging Face Hub, and return its address.

    Args:
        viewmaker: what to upload.
        name: of the repository, such as ``"somebody/viewmaker"``, which is made if there is none.
        notes: as of :func:`save_pretrained`.
        private: whether a new repository is.
    """
    import tempfile

    hub = _hub()
    address = hub.create_repo(name, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(viewmaker, folder, notes=notes)
        hub.upload_folder(repo_id=name, folder_path=folder)
    return str(address)


def card(viewmaker: Viewmaker, notes: str = "") -> str:
    """Return a card in Markdown: what it is, what was noted, and how to use it."""
    rows = [[name, json.dumps(value)] for name, value in viewmaker.config.items()]
    count = sum(parameter.numel() for parameter in viewmaker.parameters())
    versions = f"viewaug {viewaug.__version__}, torch {torch.__version__}, file format {viewmaker.version}"
    parts = [
        "---\nlibrary_name: viewaug\ntags: [viewmaker, self-supervised-learning, data-augmentation]\n---",
        "# A viewmaker",
        "A network that makes views of its input within an L1 budget, for self-supervised learning.",
        notes.strip(),
        '```python\nimport viewaug\n\nviewmaker = viewaug.Viewmaker.from_pretrained("...")  # this folder\n'
        "augmentation = viewaug.AdversarialAugmentation(viewmaker).freeze()\n```",
        markdown_table(["option", "value"], rows, names=2),
        f"{count:,} parameters. Written by {versions}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("The Hub needs huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub
