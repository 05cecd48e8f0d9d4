"""Draws the pictures of the gallery when the site is built: views of every family, of three kinds of signals."""

from pathlib import Path
from typing import Any

import torch
from viewaug.examples.multitask.noises import noises
from viewaug.examples.multitask.speech import speech
from viewaug.examples.photo_digits import photo_digits
from viewaug.examples.smartwatch import smartwatch

import viewaug
from viewaug.perturbations import PERTURBATIONS
from viewaug.plots import view_grid

BATCH = 16  # partners are of a batch
SHOWN = 6


def photographs() -> tuple[torch.Tensor, tuple[float, float] | None]:
    """Photographs with a digit."""
    return photo_digits(BATCH, train=False).images, (0.0, 1.0)


def spectrograms() -> tuple[torch.Tensor, tuple[float, float] | None]:
    """Spoken digits over noise, as standardised log-mel spectrograms."""
    from viewaug.adapters.torchaudio import LogMel
    from viewaug.examples.multitask.mixtures import Mixed

    source = {"source": "synthetic", "train": False, "sample_rate": 8000}
    data = Mixed(speech(**source), noises(**source), "both", length=5120, train=False)
    waveforms = data.__getitems__(range(BATCH))["views"][0]
    return LogMel(8000, n_mels=40, n_fft=512, hop_length=160, floor=-20).fit([waveforms])(waveforms), None


def readings() -> tuple[torch.Tensor, tuple[float, float] | None]:
    """A smartwatch's readings."""
    data = smartwatch()
    return torch.from_numpy(data["x"][data["split"] == "test"][::8][:BATCH]), None


SIGNALS = {"photographs": photographs, "spectrograms": spectrograms, "readings": readings}


def draw(folder: Path) -> None:
    """Draw a picture for each kind of signal, with a random view of every family that there is for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SIGNALS.items():
        x, value_range = make()
        dims, views = x.ndim - 2, {}
        torch.manual_seed(0)
        for family, kind in PERTURBATIONS.items():
            if family == "kornia" or dims not in kind.dims or (x.shape[1] == 1 and family == "channels"):
                continue
            bounded = family not in ("additive", "spectral")
            options: dict[str, Any] = {"budget": None if bounded else 0.3, "units": "std", "value_range": value_range}
            try:
                viewmaker = viewaug.Viewmaker(x.shape[1], dims=dims, generator="random", perturbation=family, **options)
            except ValueError:  # colours need a value range
                continue
            views[family] = viewmaker(x)[:SHOWN]
        figure = view_grid(x[:SHOWN], list(views.values()), amplify=1.0, value_range=value_range, labels=list(views))
        figure.savefig(folder / f"{name}.png", dpi=70)


def setup(app: Any) -> dict[str, Any]:
    """Draw before the pages are read."""
    app.connect("builder-inited", lambda app: draw(Path(app.srcdir) / "_build" / "gallery"))
    return {"parallel_read_safe": True}
