"""What the views of each method look like, and which labels they destroy, for the cells of a grid."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from viewaug.examples.multitask.methods import by_hand, parse
from viewaug.examples.multitask.overlays import Overlaid

import viewaug
from viewaug._files import replacing
from viewaug.plots import probability_histograms, view_grid
from viewaug.probes import correct_probability, load_probe

METHODS = ("noise", "crop", "expert", "viewmaker", "crop+viewmaker", "expert+viewmaker")
SCORERS = ("expert", "viewmaker")  # whose probes score the views


def draw_destruction(
    out: Path, data: Overlaid, *, budget: float, crop: float, images: int = 100, views: int = 10
) -> None:
    """Draw ``views-OVERLAY.png`` and ``destruction-OVERLAY.png`` of the methods of a seed, the first with both scorers.

    The probability of the correct label is, as in the paper, that of the other policy's probe, whose encoder has not
    adapted to the views: `expert`'s for learned views, `viewmaker`'s for hand-made ones.

    Args:
        out: the folder of the grid.
        data: test images.
        budget: of noise.
        crop: the smallest share of the area that a crop shows.
        images: how many to make views of.
        views: how many to make of each.
    """
    torch.manual_seed(0)
    batch = data.__getitems__(range(min(images, len(data))))
    x = batch["views"][0]
    labels = {task: batch[task] for task in ("background", "overlay") if task in batch}
    seed = _first_seed(out, data.overlay)
    makers = {name: make for name in METHODS if (make := _maker(out, data.overlay, name, seed, budget, crop))}
    figure = view_grid(x[:6], [make(x[:6]) for make in makers.values()], amplify=3, labels=list(makers))
    with replacing(out / f"views-{data.overlay}.png") as temporary:
        figure.savefig(temporary, dpi=110)
    probes = {name: out / "probes" / f"{data.overlay}-{name}-{seed}.pt2" for name in SCORERS}
    if not all(file.exists() for file in probes.values()):
        return
    scorers = {name: load_probe(file) for name, file in probes.items()}
    found = {}
    for name, make in makers.items():
        scorer = scorers["expert" if parse(name).learned else "viewmaker"]
        rounds = [correct_probability(scorer, make(x), labels) for _ in range(views)]
        found[name] = {task: torch.stack([one[task] for one in rounds]) for task in labels}
    with replacing(out / f"destruction-{data.overlay}.png") as temporary:
        probability_histograms(found).savefig(temporary, dpi=110)


def _first_seed(out: Path, overlay: str) -> int:
    """Return the first seed with both scorers' probes, or else 0."""
    seeds = [{int(f.stem.rpartition("-")[2]) for f in (out / "probes").glob(f"{overlay}-{s}-*.pt2")} for s in SCORERS]
    return min(set.intersection(*seeds), default=0)


def _maker(
    out: Path, overlay: str, name: str, seed: int, budget: float, crop: float
) -> Callable[[Tensor], Tensor] | None:
    method = parse(name)
    first = by_hand(method.by_hand, 32, budget, crop) or torch.nn.Identity()
    if not method.learned:
        return first
    file = out / "viewmakers" / f"{overlay}-{name}-{seed}.safetensors"
    if not file.exists():
        return None
    viewmaker = viewaug.load(file).requires_grad_(False)
    return lambda x: viewmaker(first(x))
