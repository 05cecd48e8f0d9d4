"""One cell: pretrain an encoder with one kind of views, and probe what it knows of every label."""

import functools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from viewaug import Viewmaker, save
from viewaug.comparison.arrays import TEST, TRAIN, UNKNOWN, VALIDATION, Arrays, read_arrays
from viewaug.comparison.encoders import build_encoder
from viewaug.comparison.objectives import Objective, Supervised, objective
from viewaug.comparison.proxies import alignment, effective_rank, retrieval, uniformity
from viewaug.comparison.schedules import warmed_cosine
from viewaug.comparison.training import Clock, Pretraining, Training, quiet_trainer, viewmaker_callback
from viewaug.comparison.views import Kind, Method, Views
from viewaug.probes import Probe, save_probe

Known = tuple[Tensor, Mapping[str, Tensor]]  # features, and by label's name what is known of them
_LOOK = 1000  # samples that proxies and curves look at
_TIMED = (3, 8)  # steps before a price is measured, and for it


@dataclass(frozen=True)
class Settings:
    """What all cells depend on."""

    objective: str = "simclr"
    batch: int = 128
    temperature: float = 0.1
    lr: float = 0.06
    weight_decay: float = 5e-4
    viewmaker_lr: float = 3e-3
    labelled: int | None = None  # samples that probes are fitted to; None for all


class Source(NamedTuple):
    """Where arrays are, from which each process reads them, and which are labels."""

    place: Path
    labels: tuple[str, ...]


class Cell(NamedTuple):
    """Which one."""

    method: Method
    strength: float | None
    encoder: str
    seed: int
    steps: int
    final: bool  # not a trial

    @property
    def name(self) -> str:
        """Of its files."""
        method = self.method.name
        if self.method.strength is not None:
            method = method.rpartition("@")[0]
        strength = "" if self.strength is None else f"@{self.strength:g}"
        name = f"{self.encoder}-{method}{strength}-{self.seed if self.final else 'trial'}"
        return file_name(name)


def file_name(name: str) -> str:
    """Return what a name is in those of files."""
    return name.replace(":", "=").replace("/", ",")


def kind_of(arrays: Arrays) -> Kind:
    """Return what views of arrays are made of."""
    return Kind(arrays.channels, arrays.size, arrays.value_range, arrays.mean, arrays.std)


def run_cell(
    cell: Cell, data: Arrays | Source, settings: Settings, device: str, out: Path, probes: bool = False
) -> dict[str, Any]:
    """Pretrain, probe, and keep the viewmaker, and the probes of the first seed if they are wanted."""
    arrays = data if isinstance(data, Arrays) else _read(data)
    trained = pretrain(cell, arrays, settings, device, curve=cell.final and cell.seed == 0)
    encoder = trained.encoder.eval()
    if trained.views.viewmaker is not None and cell.final:
        save(trained.views.viewmaker.cpu(), out / "viewmakers" / f"{cell.name}.safetensors")
    scores, fitted = probe(encoder, arrays, settings, (VALIDATION, TEST), device)
    if probes and fitted is not None and cell.final and cell.seed == 0:
        save_probe(fitted, out / "probes" / f"{cell.name}.pt2", arrays.take(arrays.where(TEST)[:2]))
    return {
        "method": cell.method.name,
        "strength": cell.strength,
        "encoder": cell.encoder,
        "seed": cell.seed,
        "trial": not cell.final,
        "steps": cell.steps,
        "validation": scores[VALIDATION],
        "test": scores[TEST],
        "proxies": proxies(encoder, trained.views, arrays, device) if cell.final else {},
        **outcome(trained.loss, trained.seconds, trained.views.viewmaker, trained.curve),
    }


def outcome(loss: float, seconds: float, viewmaker: Viewmaker | None, curve: list[dict[str, float]]) -> dict[str, Any]:
    """Return what every cell says of its training."""
    return {
        "loss": loss if math.isfinite(loss) else None,
        "seconds": round(seconds, 2),
        "reached": {} if viewmaker is None else {"budget": viewmaker.budget, "strength": viewmaker.strength},
        "curve": curve,
    }


class Trained(NamedTuple):
    """What pretraining leaves."""

    encoder: nn.Module
    views: Views
    loss: float
    seconds: float
    curve: list[dict[str, float]]
    prices: list[float]


def pretrain(cell: Cell, arrays: Arrays, settings: Settings, device: str, *, curve: bool = False) -> Trained:
    """Pretrain an encoder for so many steps; a seed and a cell make the same one again."""
    torch.manual_seed(cell.seed)
    encoder, features = encoder_for(cell.encoder, arrays)
    if cell.method.maker == "supervised":
        loss: Objective = Supervised(encoder, features, arrays.labels)
    else:  # a memory bank has a place for each sample, whatever its part
        loss = objective(settings.objective, encoder, features, settings.temperature, samples=len(arrays))
    unrelated = loss.unrelated(settings.batch)
    views = cell.method.views(kind_of(arrays), cell.strength, contrastive=unrelated is not None)
    options = Training(lr=settings.lr, weight_decay=settings.weight_decay)
    module = Pretraining(loss, options, views.augment, cell.seed)
    if arrays.dims == 2:
        module = module.to(memory_format=torch.channels_last)
    clock = Clock(cell.steps, (lambda: _curve(module.encoder, arrays, settings, device)) if curve else None)
    callbacks: list[pl.Callback] = [clock]
    if views.viewmaker is not None:
        callbacks.insert(
            0,
            viewmaker_callback(
                views.viewmaker,
                lr=settings.viewmaker_lr,
                seed=cell.seed,
                decay=warmed_cosine(cell.steps),
                difficulty=views.difficulty,
                unrelated=unrelated,
                frozen=not cell.method.learns,
            ),
        )
    order = _Order(arrays.where(TRAIN), settings.batch, cell.steps, cell.seed)
    loader = DataLoader(_Batches(arrays, views.count), batch_size=None, sampler=order)
    if cell.method.maker == "untrained":
        return Trained(encoder.to(device), views, math.nan, 0.0, [], [0.0])
    trainer = quiet_trainer(callbacks, accelerator(device), max_steps=cell.steps, max_epochs=1, logger=False)
    trainer.fit(module, loader)
    module.to(device)
    return Trained(module.encoder, views, clock.loss, clock.seconds, clock.curve, clock.prices)


def price(method: Method, encoder: str, arrays: Arrays, settings: Settings, device: str) -> float:
    """Return the median time of a step, in seconds of the processor, or of the clock off the CPU."""
    if method.maker == "untrained":
        method = Method("none", "none")  # it has no price; nor does the time count
    before, timed = _TIMED
    strengths = method.strengths(kind_of(arrays))
    cell = Cell(method, strengths[0] if strengths else None, encoder, 0, before + timed, False)
    return statistics.median(pretrain(cell, arrays, settings, device).prices[before:])


def encoder_for(name: str, arrays: Arrays) -> tuple[nn.Module, int]:
    """Return a new encoder for arrays, and its number of features."""
    return build_encoder(name, arrays.channels, arrays.dims, mean=arrays.mean, std=arrays.std, size=arrays.size)


@torch.no_grad()
def features(encoder: nn.Module, arrays: Arrays, places: Tensor, device: str, batch: int = 256) -> Tensor:
    """Return the features of the inputs at some places."""
    encoder.eval()
    return torch.cat([encode(encoder, arrays.take(part), device) for part in places.split(batch)])


def probe(
    encoder: nn.Module,
    arrays: Arrays,
    settings: Settings,
    parts: tuple[int, ...],
    device: str,
    count: int | None = None,
) -> tuple[dict[int, dict[str, float]], Probe | None]:
    """Fit linear probes to frozen features in training; return their accuracy in other parts, in percent, and them.

    Args:
        encoder: what to probe.
        arrays: the data.
        settings: how many of the training samples are labelled.
        parts: where to score.
        device: of the encoder.
        count: of how many training samples, at most.
    """
    if not arrays.labels:
        return {part: {} for part in parts}, None
    places = labelled(arrays, settings.labelled if count is None else min(count, settings.labelled or count))
    train, *scored = (
        (features(encoder, arrays, some, device), {task: label[some] for task, label in arrays.labels.items()})
        for some in (places, *map(arrays.where, parts))
    )
    heads, found = fit_heads(train, *scored)
    return dict(zip(parts, found, strict=True)), Probe(encoder, heads)


def fit_heads(train: Known, *scored: Known) -> tuple[dict[str, nn.Linear], list[dict[str, float]]]:
    """Fit linear probes to features; return them and the accuracy of each label elsewhere, in percent."""
    from threadpoolctl import threadpool_limits

    heads: dict[str, nn.Linear] = {}
    found: list[dict[str, float]] = [{} for _ in scored]
    for task in train[1]:
        with threadpool_limits(1):  # each worker has a core
            fitted = Probe.fit(nn.Identity(), *_known(train, task))
        heads[task] = fitted.heads[0]  # type: ignore[assignment]
        for accuracy, part in zip(found, scored, strict=True):
            accuracy[task] = 100 * fitted.accuracy(*_known(part, task))[task]
    return heads, found


def _known(part: Known, task: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the features and the labels of inputs of which a label is known."""
    label = part[1][task].to(part[0].device)
    known = label != UNKNOWN
    return part[0][known], {task: label[known]}


def labelled(arrays: Arrays, count: int | None) -> Tensor:
    """Return the places of so many training samples, among them two of each class, as far as there are as many."""
    places = arrays.where(TRAIN)
    places = places[torch.stack([label[places] != UNKNOWN for label in arrays.labels.values()]).any(0)]
    order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    if count is None or count >= len(order):
        return order
    first = [
        order[arrays.labels[task][order] == number][:2]
        for task in arrays.labels
        for number in range(int(arrays.labels[task].max()) + 1)
    ]
    kept = torch.cat(first).unique()
    return torch.cat([kept, order[~torch.isin(order, kept)]])[: max(count, len(kept))]


def proxies(encoder: nn.Module, views: Views, arrays: Arrays, device: str) -> dict[str, float]:
    """Return what is known of the features without labels, in the validation part."""
    places = arrays.where(VALIDATION)[:_LOOK]
    clean = features(encoder, arrays, places, device).cpu()
    x = arrays.take(places)
    side = x.shape[-1] // 2
    torch.manual_seed(0)
    if views.viewmaker is not None:
        views.viewmaker.cpu()
    with torch.no_grad():
        both = [encode(encoder, views(x), device).cpu() for _ in range(2)]
        halves = [encode(encoder, part, device).cpu() for part in (x[..., :side], x[..., -side:])] if side else None
    return {
        "alignment": alignment(both[0], both[1]),
        "uniformity": uniformity(clean),
        "rank": effective_rank(clean),
        **({"halves": retrieval(halves[0], halves[1])} if halves else {}),
    }


def accelerator(device: str) -> str:
    """Return Lightning's name of a torch device."""
    kind = torch.device(device).type
    return "gpu" if kind == "cuda" else kind


def encode(encoder: nn.Module, x: Tensor, device: str | torch.device) -> Tensor:
    """Return the features of inputs, ``(N, F)``; of a network that diverged, which know nothing, 0."""
    return torch.cat([encoder(part.to(device)).float() for part in x.split(256)]).nan_to_num(0.0, 0.0, 0.0)


def _curve(encoder: nn.Module, arrays: Arrays, settings: Settings, device: str) -> float:
    scores = probe(encoder, arrays, settings, (VALIDATION,), device, count=_LOOK)[0][VALIDATION]
    encoder.train()
    return statistics.mean(scores.values()) if scores else 0.0


@functools.cache
def _read(source: Source) -> Arrays:
    return read_arrays(source.place, source.labels)


class _Order(Sampler[Tensor]):
    """Batches of places, one permutation after another, that depend on the seed alone."""

    def __init__(self, places: Tensor, batch: int, steps: int, seed: int) -> None:
        self.places, self.batch, self.steps, self.seed = places, batch, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        generator, done = torch.Generator().manual_seed(self.seed), 0
        while done < self.steps:
            order = self.places[torch.randperm(len(self.places), generator=generator)]
            for part in order.split(self.batch)[: min(len(order) // self.batch, self.steps - done)]:
                yield part
                done += 1


class _Batches(Dataset[dict[str, Any]]):
    """Batches for places: as many times the inputs as there are views to make of them."""

    def __init__(self, arrays: Arrays, views: int) -> None:
        self.arrays, self.views = arrays, views

    def __getitem__(self, places: Any) -> dict[str, Any]:
        x = self.arrays.take(places)
        return {"views": [x] * self.views, "index": places}
