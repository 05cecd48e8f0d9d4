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


def draw_budget(file: Path) -> None:
    """Draw how the distortion of a view grows with the scale of a perturbation, and where it spends a budget."""
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    x, delta, budget = torch.rand(1, 60), torch.randn(1, 60), 0.15
    scales = torch.linspace(0, 1.2, 200)
    clamped, free = (
        torch.stack([viewaug.distortion(x, change(x + scale * delta)) for scale in scales]).flatten()
        for change in (lambda view: view.clamp(0, 1), lambda view: view)
    )
    found = viewaug.fit_budget(x, delta, budget, (0.0, 1.0)).item()
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(scales, free, "--", color="C7", label="without a clamp")
    ax.plot(scales, clamped, label="after the clamp to [0, 1]")
    ax.axhline(budget, color="C3", linewidth=0.8, label="budget")
    ax.plot([found, found], [0, budget], ":", color="k")
    ax.plot(found, budget, "ko", markersize=4)
    ax.set(xlabel="scale of the perturbation", ylabel="mean |view - x|", xlim=(0, 1.2), ylim=(0, 0.6))
    ax.legend(fontsize=7)
    figure.savefig(file, dpi=90)


def setup(app: Any) -> dict[str, Any]:
    """Draw before the pages are read."""

    def draw_all(app: Any) -> None:
        folder = Path(app.srcdir) / "_build" / "gallery"
        draw(folder)
        draw_budget(folder / "budget.png")

    app.connect("builder-inited", draw_all)
    return {"parallel_read_safe": True}
