"""Viewmakers with cards: in folders, on the Hugging Face Hub, and those that come with the package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import viewaug
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.budget import distortion
from viewaug.checkpoints import FILE, TRAINED, load, save, shipped
from viewaug.viewmaker import Viewmaker

CARD, CARD_VERSION = "README.md", 1
_ENTRY = "viewaug: "  # of the card's head, which is YAML, and therefore JSON, too
_COUNT = 256  # examples that are measured


def save_pretrained(
    viewmaker: Viewmaker,
    folder: str | Path,
    *,
    about: Mapping[str, str] | None = None,
    examples: Tensor | None = None,
    notes: str = "",
) -> Path:
    """Save a viewmaker and its card in a folder.

    Args:
        viewmaker: what to save.
        folder: where to; files of these names are replaced, each in one go.
        about: facts for the card, by their names: the data and their licence, the command, what was measured. That
            which it is ``"made for"`` is shown in lists.
        examples: inputs, on which the card says how far views are from them.
        notes: for the card, in Markdown.

    Examples:
        >>> x = torch.rand(8, 1, 16, 16)
        >>> folder = save_pretrained(viewaug.Viewmaker(1, budget=0.1), getfixture("tmp_path"), examples=x)
        >>> from_pretrained(folder).budget
        0.1
        >>> read_card(folder)["distortion"]
        'mean 0.1, from 0.1 to 0.1, of 8 views'
    """
    facts = dict(about or {})
    if examples is not None:
        facts["distortion"] = _measure(viewmaker, examples)
    folder = Path(folder)
    save(viewmaker, folder / FILE)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(card(viewmaker, facts, notes), encoding="utf-8")
    return folder


def _measure(viewmaker: Viewmaker, x: Tensor) -> str:
    x, generator = x[:_COUNT], torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = distortion(x, viewmaker(x, viewmaker.draw_noise(x, generator)))
        if viewmaker.units == "std":
            found = found / x.flatten(1).std(1, correction=0)
    unit = " standard deviations" if viewmaker.units == "std" else ""
    return f"mean {found.mean():.3g}{unit}, from {found.min():.3g} to {found.max():.3g}, of {len(x)} views"


def card_file(name: str | Path) -> Path:
    """Return the card of a viewmaker of the package, or of a folder.

    Raises:
        FileNotFoundError: if there is none; the error lists those of the package.
    """
    file = (TRAINED / name if str(name) in shipped() else Path(name)) / CARD
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected one of {', '.join(shipped())}, or a folder with a card, but there is no {file}."
        )
    return file


def read_card(name: str | Path) -> dict[str, str]:
    """Return the facts of the card of a viewmaker of the package, or of a folder.

    Raises:
        FileNotFoundError: if there is none; the error lists those of the package.
        ValueError: if it is another's, or of another format.
    """
    file = card_file(name)
    lines = file.read_text(encoding="utf-8").splitlines()
    try:
        found = json.loads(next(line for line in lines if line.startswith(_ENTRY)).removeprefix(_ENTRY))
        version = found["card"]
        about = {str(name): str(text) for name, text in found["about"].items()} if version == CARD_VERSION else {}
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        raise ValueError(f"{file} is no card of a viewmaker: its head has no '{_ENTRY.strip()}' that fits.") from None
    if version != CARD_VERSION:
        raise ValueError(f"{file} is a card of format {version}; this viewaug reads format {CARD_VERSION}.")
    return about


def from_pretrained(name: str | Path, *, revision: str | None = None) -> Viewmaker:
    """Load a viewmaker of the package, from a folder, or from a repository of the Hugging Face Hub.

    Args:
        name: one of :func:`shipped`, which comes first; a folder that :func:`save_pretrained` wrote; or a repository
            such as ``"somebody/viewmaker"``, which is downloaded.
        revision: of the repository.

    Raises:
        FileNotFoundError: if it is none of these; the error lists those of the package.
        ImportError: for a repository, if huggingface_hub is not installed.
        ValueError: if the file is not a viewmaker's.
    """
    if str(name) in shipped() or Path(name).is_dir():
        return load(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"Expected one of {', '.join(shipped())}, a folder, or a repository such as somebody/viewmaker, "
            f"but got {str(name)!r}."
        )
    return load(_hub().hf_hub_download(str(name), FILE, revision=revision))


def push_to_hub(viewmaker: Viewmaker, name: str, *, private: bool = False, **card: Any) -> str:
    """Upload a viewmaker and its card to a repository of the Hugging Face Hub, and return its address.

    Args:
        viewmaker: what to upload.
        name: of the repository, such as ``"somebody/viewmaker"``, which is made if there is none.
        private: whether a new repository is.
        card: what is for the card, as of :func:`save_pretrained`.
    """
    import tempfile

    hub = _hub()
    address = hub.create_repo(name, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(viewmaker, folder, **card)
        hub.upload_folder(repo_id=name, folder_path=folder)
    return str(address)


def card(viewmaker: Viewmaker, about: Mapping[str, str], notes: str = "") -> str:
    """Return a card in Markdown: what it is, the facts and notes of it, how to use it, and its options."""
    entry = json.dumps({"card": CARD_VERSION, "about": dict(about)})
    facts = [[name, text.replace("|", "\\|")] for name, text in about.items()]
    options = [[name, json.dumps(value)] for name, value in viewmaker.config.items()]
    count = sum(parameter.numel() for parameter in viewmaker.parameters())
    versions = f"viewaug {viewaug.__version__}, torch {torch.__version__}, file format {viewmaker.version}"
    made_for = f", made for {about['made for']}" if "made for" in about else ""
    parts = [
        "---\nlibrary_name: viewaug\ntags: [viewmaker, self-supervised-learning, data-augmentation]\n"
        f"{_ENTRY}{entry}\n---",
        "# A viewmaker",
        f"A network that makes views of its input within an L1 budget, for self-supervised learning{made_for}.",
        markdown_table(["", ""], facts, names=2) if facts else "",
        notes.strip(),
        '```python\nimport viewaug\n\nviewmaker = viewaug.Viewmaker.from_pretrained("...")  # this folder\n'
        "augmentation = viewaug.AdversarialAugmentation(viewmaker).freeze()\n```",
        markdown_table(["option", "value"], options, names=2),
        f"{count:,} parameters. Written by {versions}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("The Hub needs huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub
