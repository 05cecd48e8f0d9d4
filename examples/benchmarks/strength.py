"""How strong an adversary is: the loss that its views cost frozen encoders, from random views up to the limit.

On the demo's images, at equal budget, each generator learns for equally many steps against an encoder that no longer
learns: an untrained one, one pretrained on random views, and one on learned views. Strength is (loss - loss of random
views) / (loss of the limit - loss of random views), the limit being projected gradient ascent on each view by itself
(Madry et al., ICLR 2018), through the same budget. Everything is scored on training images that are held out.

python -m viewaug.examples.benchmarks.strength --out DIR
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from viewaug.examples.photo_digits import PhotoDigits, photo_digits

import viewaug
from viewaug._files import replacing
from viewaug._markdown import markdown_table
from viewaug.budget import constrain
from viewaug.commands._arguments import positive
from viewaug.comparison.encoders import residual
from viewaug.comparison.grid import default_workers, held_out_tenth, run_grid, tick
from viewaug.comparison.objectives import Objective, objective
from viewaug.comparison.schedules import warmed_cosine
from viewaug.comparison.verdict import with_interval
from viewaug.metrics import LabelDestruction
from viewaug.perturbations.spectral import dct
from viewaug.probes import Probe, correct_probability
from viewaug.version1 import Viewmaker1

TASKS = ("photo", "digit")
FEATURES = 64
ENCODERS = ("untrained", "random", "learned")
DEFAULT = 3
DEPARTURES = (0.3, 1.0, 3.0, 10.0, 30.0)
SCALES = ("coarsest", "coarse", "fine", "finest")  # octaves of frequency, from below to Nyquist's
VIEWS = 8  # of each image, for the destruction of labels


@dataclass(frozen=True)
class Settings:
    """What a result depends on, the encoder and the seed aside."""

    steps: int = 100
    batch: int = 32
    lr: float = 3e-3
    budget: float = 0.05
    ascent: int = 20  # steps of the limit
    restarts: int = 2
    images: int = 256  # to score on
    epochs: int = 8  # of the encoders
    long: int = 3000  # steps of the curve of diversity


def viewmakers(budget: float) -> dict[str, Callable[[], viewaug.Viewmaker]]:
    """Return who is measured: the twin, the original network, that of 0.1, and `fast` by its bound on departures."""
    makers: dict[str, Callable[[], viewaug.Viewmaker]] = {
        "random": lambda: viewaug.Viewmaker(budget=budget, generator="random"),
        "reference": lambda: viewaug.Viewmaker(budget=budget, generator="reference"),
        "0.1": lambda: Viewmaker1(budget=budget),
    }
    for bound in DEPARTURES:
        makers[f"fast, {bound:g}"] = functools.partial(viewaug.Viewmaker, budget=budget, departure=bound)
    return makers


def run_cell(encoder: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Measure every viewmaker against one encoder."""
    train, held_out = splits()
    model = frozen(encoder, seed, settings, train)
    scorer = supervised(seed, settings, train)
    x = held_out.images[: settings.images]
    labels = {task: getattr(held_out, task)[: settings.images] for task in TASKS}
    limit = ascend(model, x, settings, seed)
    rows = {"limit": {"loss": model(*limit).item(), **measure(x, limit)}}
    for name, make in viewmakers(settings.budget).items():
        torch.manual_seed(seed)
        viewmaker = make()
        learn(viewmaker, model, train.images, settings.steps, settings)
        with torch.no_grad():
            views = [viewmaker(x) for _ in range(VIEWS)]
            loss = statistics.mean(model(*pair).item() for pair in zip(views[::2], views[1::2], strict=True))
        rows[name] = {"loss": loss, **measure(x, views[:2]), **destruction(scorer, views, labels)}
    tick()
    return {"encoder": encoder, "seed": seed, "views": rows}


def run_long(seed: int, settings: Settings) -> dict[str, Any]:
    """Follow the diversity of `fast` through many steps against an encoder that learns nothing any more."""
    train, held_out = splits()
    model = frozen("random", seed, settings, train)
    x = held_out.images[: settings.images]
    torch.manual_seed(seed)
    viewmaker = viewaug.Viewmaker(budget=settings.budget, departure=DEFAULT)
    curve = []

    def look(step: int) -> None:
        with torch.no_grad():
            views = [viewmaker(x), viewmaker(x)]
            curve.append({"step": step, "loss": model(*views).item(), "diversity": diversity(x, views)})

    learn(viewmaker, model, train.images, settings.long, settings, look)
    tick()
    return {"encoder": "random", "seed": seed, "curve": curve, "departure": DEFAULT}


@functools.cache
def splits() -> tuple[PhotoDigits, PhotoDigits]:
    """Return training images, and a tenth of them that is held out."""
    data = photo_digits(4096, train=True)
    held_out = held_out_tenth(len(data.images))
    rest, tenth = (PhotoDigits(*(part[which] for part in data)) for which in (~held_out, held_out))
    return rest, tenth


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Take a step down a loss, and return it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def frozen(name: str, seed: int, settings: Settings, train: PhotoDigits) -> Objective:
    """Return an encoder with its projector and contrastive loss, pretrained on views of a name."""
    torch.manual_seed(seed)
    model = objective("simclr", residual(3).to(memory_format=torch.channels_last), FEATURES)
    if name != "untrained":
        generator = "random" if name == "random" else "fast"
        viewmaker = viewaug.Viewmaker(3, budget=settings.budget, generator=generator)
        sgd = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
        optimizer = viewaug.JointOptimizer(sgd, viewmaker.parameters(), lr=settings.lr)
        augmentation = viewaug.AdversarialAugmentation(viewmaker)
        fit(lambda data: descend(optimizer, model(*augmentation.views(data.images))), optimizer, train, settings)
    return model.eval().requires_grad_(False)


def supervised(seed: int, settings: Settings, train: PhotoDigits) -> Probe:
    """Return a scorer that is independent of all views: trained with both labels, on clean images."""
    torch.manual_seed(seed)
    backbone = residual(3).to(memory_format=torch.channels_last)
    heads = nn.ModuleList(nn.Linear(FEATURES, 10) for _ in TASKS)
    parameters = [*backbone.parameters(), *heads.parameters()]
    sgd = torch.optim.SGD(parameters, lr=0.06, momentum=0.9, weight_decay=5e-4)

    def step(data: PhotoDigits) -> Tensor:
        z = backbone(data.images)
        return descend(
            sgd,
            torch.stack(
                [
                    nn.functional.cross_entropy(head(z), getattr(data, task))
                    for head, task in zip(heads, TASKS, strict=True)
                ]
            ).sum(),
        )

    fit(step, sgd, train, settings)
    return Probe.fit(backbone, train.images, {task: getattr(train, task) for task in TASKS})


def fit(
    step: Callable[[PhotoDigits], Tensor], optimizer: torch.optim.Optimizer, train: PhotoDigits, settings: Settings
) -> None:
    """Train for some epochs."""
    count, batch = len(train.images), 128
    schedule = warmed_cosine(settings.epochs * (count // batch))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for _ in range(settings.epochs):
        for index in torch.randperm(count)[: count // batch * batch].split(batch):
            step(PhotoDigits(*(part[index] for part in train)))
            scheduler.step()


def learn(
    viewmaker: viewaug.Viewmaker,
    model: Objective,
    images: Tensor,
    steps: int,
    settings: Settings,
    look: Callable[[int], None] | None = None,
) -> None:
    """Train a viewmaker, if there is anything to train, to raise the loss of a frozen encoder."""
    parameters = list(viewmaker.parameters())
    if not parameters:
        return
    adam = torch.optim.Adam(parameters, settings.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, warmed_cosine(steps))
    for step in range(steps):
        if look is not None and step % 100 == 0:
            look(step)
        x = images[torch.randint(len(images), (settings.batch,))]
        descend(adam, -model(*viewmaker(torch.cat([x, x])).chunk(2)))
        scheduler.step()
    if look is not None:
        look(steps)


def ascend(model: nn.Module, x: Tensor, settings: Settings, seed: int) -> list[Tensor]:
    """Return the two views of each image, of some restarts, at which gradient ascent on them found the highest loss.

    A step goes half the length of the perturbation along the gradient, which flows through :func:`viewaug.fit_budget`.
    """
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, list[Tensor]] = (-1.0, [])
    for _ in range(settings.restarts):
        deltas = [2 * torch.rand(x.shape, generator=generator) - 1 for _ in range(2)]
        for _ in range(settings.ascent + 1):
            deltas = [delta.requires_grad_() for delta in deltas]
            views = [constrain(x, delta, settings.budget, (0.0, 1.0)) for delta in deltas]
            loss = model(*views)
            if loss.item() > best[0]:
                best = loss.item(), [view.detach() for view in views]
            grads = torch.autograd.grad(loss, deltas)
            deltas = [
                delta.detach() + grad * (0.5 * _length(delta.detach()) / _length(grad).clamp(min=1e-20))
                for delta, grad in zip(deltas, grads, strict=True)
            ]
    return best[1]


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def diversity(x: Tensor, views: Sequence[Tensor]) -> float:
    """Return the mean difference of two views as a share of their mean distance from the input."""
    apart = viewaug.distortion(views[0], views[1])
    return (apart / viewaug.distortion(x, views[0]).clamp(min=1e-12)).mean().item()


def measure(x: Tensor, views: Sequence[Tensor]) -> dict[str, Any]:
    """Return the diversity of views, and the share of their energy in each octave of frequency."""
    energy = dct(views[0] - x, 2).square().mean((0, 1))
    height, width = energy.shape
    places = torch.arange(height)[:, None] / height, torch.arange(width) / width
    frequency = torch.maximum(*torch.broadcast_tensors(*places))
    edges = (0, 1 / 8, 1 / 4, 1 / 2, 1)
    shares = {
        scale: (energy[(frequency >= low) & (frequency < high)].sum() / energy.sum()).item()
        for scale, low, high in zip(SCALES, edges, edges[1:], strict=False)
    }
    return {"diversity": diversity(x, views), "scales": shares}


def destruction(scorer: Probe, views: Sequence[Tensor], labels: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return how often each label is destroyed, and which share of that is chance and not the input."""
    found = {task: LabelDestruction(threshold=0.5) for task in labels}
    rounds = [correct_probability(scorer, view, labels) for view in views]
    for task, metric in found.items():
        metric.update(torch.stack([one[task] for one in rounds], 1))
    figures = {task: metric.compute() for task, metric in found.items()}
    return {name: {task: figure[name].item() for task, figure in figures.items()} for name in ("destruction", "within")}


def strength(cell: Mapping[str, Any], name: str) -> float:
    """Return where the loss of some views lies between random ones, 0, and the limit, 1."""
    losses = {views: row["loss"] for views, row in cell["views"].items()}
    return (losses[name] - losses["random"]) / (losses["limit"] - losses["random"])


def report(cells: Sequence[Mapping[str, Any]], long: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    """Return the tables."""
    seeds = len({cell["seed"] for cell in cells})
    parts = [
        "# The strength of an adversary",
        f"Views of a budget of {settings.budget:g} on the demo's images, held-out training images, against frozen "
        f"encoders; {settings.steps} steps of {settings.batch} images each for everybody. Strength is 0 for random "
        f"views and 1 for gradient ascent on each view ({settings.ascent} steps, {settings.restarts} restarts). "
        f"Mean ± half a 95% interval over {seeds} seeds. Destruction: the share of views on which an independent "
        "scorer gives the correct label less than 1/2; in brackets, the share of its variance that is chance. Scales: "
        "the share of energy in four octaves of frequency, the coarsest first. `fast` is named by its bound, of which "
        f"{DEFAULT} is the default; `0.1` is the default generator of that version.",
    ]
    head = ["views", "strength", "loss", "diversity", *(f"{task} destroyed" for task in TASKS), "scales"]
    for encoder in ENCODERS:
        mine = [cell for cell in cells if cell["encoder"] == encoder]
        if mine:
            rows = [[name, *_columns(mine, name)] for name in mine[0]["views"]]
            parts += [f"## Against an encoder: {encoder}", markdown_table(head, rows)]
    for one in long:
        steps = [point for point in one["curve"] if point["step"] % (settings.long // 6 // 100 * 100 or 100) == 0]
        first = one["curve"][0]["diversity"]
        rows = [
            [str(p["step"]), f"{p['loss']:.2f}", f"{p['diversity']:.3f}", f"{p['diversity'] / first:.2f}"]
            for p in steps
        ]
        parts += [
            "## Diversity through many steps",
            f"`fast`, whose bound is a share of {1 / (1 + one['departure']):g} of the beginning's.",
            markdown_table(["step", "loss", "diversity", "share"], rows),
        ]
    parts += ["![Strength against diversity](strength.png)"]
    parts += ["## Settings", "\n".join(f"- {name}: {value}" for name, value in asdict(settings).items())]
    return "\n\n".join(parts) + "\n"


def _columns(cells: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    rows = [cell["views"][name] for cell in cells]
    found = with_interval([100 * strength(cell, name) for cell in cells])
    columns = [found + " %", f"{statistics.mean(row['loss'] for row in rows):.2f}"]
    columns.append(f"{statistics.mean(row['diversity'] for row in rows):.2f}")
    for task in TASKS:
        if "destruction" in rows[0]:
            lost, chance = (100 * statistics.mean(row[key][task] for row in rows) for key in ("destruction", "within"))
            columns.append(f"{lost:.0f} % ({chance:.0f} %)")
        else:
            columns.append("")
    scales = [f"{100 * statistics.mean(row['scales'][scale] for row in rows):.0f}" for scale in SCALES]
    return [*columns, " / ".join(scales)]


def draw(cells: Sequence[Mapping[str, Any]], long: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw strength against diversity, and diversity through many steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (len(ENCODERS) + 1), 3.6), layout="constrained")
    axes = figure.subplots(1, len(ENCODERS) + 1)
    for ax, encoder in zip(axes, ENCODERS, strict=False):
        mine = [cell for cell in cells if cell["encoder"] == encoder]
        ax.set(title=f"encoder: {encoder}", xlabel="diversity", ylabel="strength")
        if not mine:
            continue

        def point(name: str, mine: Sequence[Mapping[str, Any]] = mine) -> tuple[float, float]:
            spread = statistics.mean(cell["views"][name]["diversity"] for cell in mine)
            return spread, statistics.mean(strength(cell, name) for cell in mine)

        bounds = [name for name in mine[0]["views"] if name.startswith("fast")]
        ax.plot(*zip(*map(point, bounds), strict=True), "o-", label="fast, bounds of 0.3 to 30")
        for name in ("random", "0.1", "reference"):
            ax.plot(*point(name), "s", label=name)
    axes[0].legend(fontsize=8)
    axes[-1].set(title="fast, many steps", xlabel="step", ylabel="diversity", ylim=(0, None))
    for one in long:
        axes[-1].plot([point["step"] for point in one["curve"]], [point["diversity"] for point in one["curve"]])
        axes[-1].axhline(one["curve"][0]["diversity"] / (1 + one["departure"]), linestyle=":", color="grey")
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and report."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=positive(int), default=5, help="number of seeds, 0 to N-1; default 5")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS, help="default all")
    for name, text in (
        ("steps", "of each viewmaker"),
        ("batch", "images in a step"),
        ("images", "to score on"),
        ("epochs", "of the encoders"),
        ("long", "steps of the curve of diversity"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=positive(int), default=default, help=f"{text}; default {default}")
    parser.add_argument("--workers", type=positive(int), help="processes; default 2")
    parser.add_argument("--out", type=Path, default=Path("strength"), help="folder for results; default strength")
    options = parser.parse_args(arguments)
    settings = Settings(**{name: getattr(options, name) for name in ("steps", "batch", "images", "epochs", "long")})
    cells = {f"{e}-{seed}": (e, seed, settings) for seed in range(options.seeds) for e in options.encoders}
    workers = options.workers or default_workers()
    try:
        found = run_grid(run_cell, cells, options.out, asdict(settings), workers=workers, ticks=1)
        long = run_grid(run_long, {"long-0": (0, settings)}, options.out, asdict(settings), workers=1, ticks=1)
    except OSError as error:  # of another run, or of a full disk
        parser.error(f"argument --out: {error}")
    draw(list(found.values()), list(long.values()), options.out / "strength.png")
    text = report(list(found.values()), list(long.values()), settings)
    with replacing(options.out / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
