"""One run of a multi-task experiment: pretrain an encoder on views, and probe what it knows of every label."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.examples.multitask.experiment import Experiment, cell_name, probe_file, viewmaker_file
from viewaug.examples.multitask.methods import Variant
from viewaug.examples.multitask.pairs import Part
from viewaug.examples.multitask.transfer import transfer
from viewaug.examples.multitask.turns import InTurns

import viewaug
from viewaug.comparison.cells import encode, fit_heads, outcome
from viewaug.comparison.grid import held_out_tenth, tick
from viewaug.comparison.objectives import objective
from viewaug.comparison.schedules import warmed_cosine
from viewaug.comparison.training import (
    Clock,
    Log,
    Pretraining,
    epoch_loader,
    fit,
    quiet_trainer,
    root_device,
    viewmaker_callback,
)
from viewaug.comparison.views import Method, Views
from viewaug.probes import Probe, save_probe

_TIMED = 8  # steps, of which the first two do not count
_PROBED = 1000  # training inputs, from whose probes the time of all is estimated


def run_cell(
    experiment: Experiment,
    group: str,
    name: str,
    seed: int,
    settings: Any,
    out: Path,
    accelerator: str,
    max_steps: int = -1,
    until: float | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Pretrain and probe once; keep the viewmaker, and the probes that figures need.

    Raises:
        ValueError: if there is not a whole batch of data.
        TimeIsUp: if it is `until`, of `time.monotonic()`, before training has ended.
    """
    run = _on(prepare(experiment, group, name, seed, settings), accelerator, compiled)
    module, train, test, viewmaker = run.module, run.train, run.test, run.views.viewmaker
    tasks = tuple(experiment.tasks)
    test_batch = _first(test)

    def look() -> dict[str, float]:
        found = probe(module.encoder, train, test_batch, tasks, count=2000)[1]
        if settings.neighbours:
            found |= nearest(module.encoder, train, test_batch, list(found), settings.neighbours)
        return found

    log = Log(look, settings.curve, tick, until)
    label = cell_name(group, name, seed)
    fit(
        module,
        train,
        out / "running" / label,
        log=log,
        logger=CSVLogger(out / "logs", name=label),
        viewmaker=run.callback,
        accelerator=accelerator,
        max_steps=max_steps,
    )
    cell: dict[str, Any] = {experiment.group: group, "method": name, "strength": run.method.strength, "seed": seed}
    probed = _probed(run, settings)
    fitted = {}
    for kind, (network, count, views) in probed.items():
        fitted[kind], cell[kind] = probe(network, train, test_batch, tasks, count=count, views=views)
    if name in experiment.scorers:
        example = experiment.as_seen(group, settings, test_batch["views"][0][:2].cpu())
        save_probe(next(iter(fitted.values())), probe_file(out, label), example)
    for other in settings.transfer:
        features = probed["prepool"][0] if settings.prepool else module.encoder
        found = transfer(
            features,
            other,
            settings.transfer_root,
            waveforms=experiment.transfers(settings)[other],
            count=settings.prepool or None,
        )
        cell["transfer"] = {**cell.get("transfer", {}), other: found}
    if viewmaker is not None:
        viewaug.save(viewmaker.cpu(), viewmaker_file(out, label))
    return cell | outcome(log.curve[-1]["loss"], log.seconds, viewmaker, log.curve)


class Run(NamedTuple):
    """What a cell trains, and on what."""

    method: Method
    module: Pretraining
    train: Any
    test: Any
    views: Views
    callback: ViewmakerCallback | None


def prepare(experiment: Experiment, group: str, name: str, seed: int, settings: Any) -> Run:
    """Build what a cell trains.

    Raises:
        ValueError: if there is not a whole batch of data.
    """
    method, variant = experiment.parse(name)
    options = settings.training
    train, test = splits(experiment, group, variant, settings, seed)
    if len(train) < options.batch:
        raise ValueError(f"Expected `batch` to be at most {len(train)}, as many as there are, but got {options.batch}.")
    torch.manual_seed(seed)
    encoder, features = experiment.encoder(group, settings)
    views, callback = experiment.views(group, method, variant, settings), None
    viewmaker = views.viewmaker
    if viewmaker is not None and variant.in_turns:
        module: Pretraining = InTurns(encoder, features, options, viewmaker, seed)
    else:
        contrastive = objective(
            settings.objective, encoder, features, options.temperature, width=128, samples=len(train)
        )
        module = Pretraining(contrastive, options, views.augment, seed)
        if viewmaker is not None:
            free = method.learns and method.strength is None and viewmaker.budget is not None
            steered = variant.steered or (free and options.difficulty is not None)
            steps = max(1, options.epochs * (len(train) // options.batch))
            callback = viewmaker_callback(
                viewmaker,
                lr=options.viewmaker_lr,
                seed=seed,
                decay=warmed_cosine(steps) if options.cosine else None,
                difficulty=(options.difficulty or 0.1) if steered else None,
                unrelated=contrastive.unrelated(options.batch),
            )
    module = module.to(memory_format=torch.channels_last)
    return Run(method, module, train, test, views, callback)


def _on(run: Run, accelerator: str, compiled: bool) -> Run:
    """Keep the data on the device, and compile both networks, or leave them."""
    device = root_device(accelerator)  # for which a trainer is built
    for data in (run.train, run.test):
        data.to(device)
    for network in (run.module.encoder, run.views.viewmaker):
        if compiled and network is not None:
            network.compile()
    return run


def _probed(run: Run, settings: Any) -> dict[str, tuple[nn.Module, int, Views | None]]:
    """Return what is probed in the end: features, of how many training inputs, and the views of these, if any."""
    encoder, whole = cast(nn.Sequential, run.module.encoder), len(run.train)
    found: dict[str, tuple[nn.Module, int, Views | None]] = {
        "validation" if settings.validation else "test": (encoder, whole, None)
    }
    if settings.prepool:
        feature_map = nn.Sequential(encoder[0], _Map(encoder[1]), nn.Flatten())
        found["prepool"] = feature_map, min(settings.prepool, whole), None
    if settings.views_in_probe:
        found["on_views"] = encoder, whole, run.views
    return found


class Price(NamedTuple):
    """What a cell takes: seconds of a training step, how many steps, and seconds of the probes in the end."""

    step: float
    steps: int
    probes: float


def price(
    experiment: Experiment, group: str, name: str, settings: Any, accelerator: str, compiled: bool = False
) -> Price:
    """Return what a cell takes, by the median of a few steps, and by probes of a few inputs."""
    run = _on(prepare(experiment, group, name, 0, settings), accelerator, compiled)
    options = run.module.options
    clock = Clock(_TIMED, None)
    callbacks = [clock] if run.callback is None else [run.callback, clock]
    trainer = quiet_trainer(callbacks, accelerator, options.precision, max_steps=_TIMED, max_epochs=-1, logger=False)
    trainer.fit(run.module, epoch_loader(run.train, options.batch))
    run.module.to(trainer.strategy.root_device)
    probes = 0.0
    for network, count, views in _probed(run, settings).values():
        few = min(count, _PROBED)
        test = _first(run.test, max(1, len(run.test) * few // count))
        began = time.perf_counter()
        probe(network, run.train, test, tuple(experiment.tasks), count=few, views=views)
        probes += (time.perf_counter() - began) * count / few
    return Price(statistics.median(clock.prices[2:]), options.epochs * (len(run.train) // options.batch), probes)


def splits(experiment: Experiment, group: str, variant: Variant, settings: Any, seed: int) -> tuple[Any, Any]:
    """Return what to train on, and what probes score: the test split, or a tenth of the training inputs."""
    train = experiment.data(group, variant, settings, seed, train=True)
    if not settings.validation:
        return train, experiment.data(group, variant, settings, seed, train=False)
    held_out = held_out_tenth(len(train))
    rest, tenth = (Part(train, which.nonzero().flatten().tolist()) for which in (~held_out, held_out))
    return rest, tenth


@torch.no_grad()
def probe(
    encoder: nn.Module,
    train: Any,
    test: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    count: int | None = None,
    views: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Probe, dict[str, float]]:
    """Fit linear probes to frozen features; return them and their test accuracy on clean inputs, in percent.

    Args:
        encoder: returns features.
        train: what to fit the probes to.
        test: a batch to test them on; labels of -1 do not count.
        tasks: the names of labels; those that `train` lacks are passed over.
        count: how many training inputs to use; None for all.
        views: makes views of a batch of training inputs; None for clean ones.
    """
    batch, device = _first(train, count), next(encoder.parameters()).device
    x = batch["views"][0]
    if views is not None:
        x = torch.cat([views(part.to(device)) for part in x.split(250)])
    encoder.eval()
    z, seen = (encode(encoder, part, device) for part in (x, test["views"][0]))
    heads, (accuracy,) = fit_heads((z, {task: batch[task] for task in tasks if task in batch}), (seen, test))
    return Probe(encoder, heads), accuracy


@torch.no_grad()
def nearest(
    encoder: nn.Module, train: Any, test: Mapping[str, Any], tasks: Sequence[str], neighbours: int, count: int = 2000
) -> dict[str, float]:
    """Classify test inputs by their neighbours in training, as lightly monitors pretraining; return accuracies in %.

    Args:
        encoder: returns features.
        train: where neighbours are.
        test: a batch to classify; labels of -1 do not count.
        tasks: the names of labels.
        neighbours: how many.
        count: how many training inputs to use.
    """
    from lightly.utils.benchmarking.knn import knn_predict

    batch, device = _first(train, count), next(encoder.parameters()).device
    encoder.eval()
    bank, features = (
        nn.functional.normalize(encode(encoder, x, device), dim=1) for x in (batch["views"][0], test["views"][0])
    )
    found = {}
    for task in tasks:
        known, counts = (part[task].to(device) >= 0 for part in (batch, test))
        labels = batch[task].to(device)[known]
        k = min(neighbours, len(labels))
        guess = knn_predict(features[counts], bank[known].T, labels, int(labels.max()) + 1, knn_k=k)[:, 0]
        right = (guess == test[task].to(device)[counts]).float().mean()
        found[f"{task} by neighbours"] = 100 * right.item()
    return found


class _Map(nn.Module):
    """The feature map of a network of timm's."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)


def _first(data: Any, count: int | None = None) -> dict[str, Any]:
    return data.__getitems__(range(len(data))[:count])
