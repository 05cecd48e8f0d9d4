"""Pretraining on pairs of views by Lightning: the module, and one run that can be resumed."""

import logging
import math
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from viewaug import BudgetController, Viewmaker
from viewaug._files import replacing
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.comparison.objectives import Objective
from viewaug.comparison.schedules import warmed_cosine

MINUTES = 5.0  # between two checkpoints within an epoch


@dataclass(frozen=True)
class Training:
    """How to pretrain."""

    encoder: str = "small"
    epochs: int = 12
    batch: int = 256
    lr: float = 0.03
    weight_decay: float = 1e-4
    cosine: bool = True  # the rates of both players decay
    temperature: float = 0.1
    budget: float = 0.05
    difficulty: float | None = None  # that a controller holds, beginning at the budget; None for a fixed one
    viewmaker_lr: float = 1e-3
    precision: str = "bf16-mixed"


class Pretraining(pl.LightningModule):
    """Self-supervised pretraining on batches that are dictionaries with two ``views``, or more, and maybe an ``index``.

    Args:
        objective: the loss of two views; its backbone is the encoder.
        options: how to train.
        augment: makes a view by hand of a batch, before learned ones, if any, are made of it.
        seed: of augmentations, which depend on it and on the step alone, so that a resumed run has the same ones.
    """

    def __init__(
        self,
        objective: Objective,
        options: Training,
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.objective, self.options, self.augment, self.seed = objective, options, augment, seed

    @property
    def encoder(self) -> nn.Module:
        """What is pretrained."""
        return self.objective.backbone

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        torch.manual_seed(random.Random(repr((self.seed, self.trainer.global_step))).getrandbits(63))
        if self.augment is None:
            return batch
        return {**batch, "views": [self.augment(view) for view in batch["views"]]}

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        views = batch["views"]
        if views[0].ndim == 4:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        x0, x1 = views if len(views) == 2 else hardest(self.objective, views)
        loss = self.objective(x0, x1, batch.get("index"))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        options = self.options
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(trained, lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
        if not options.cosine:
            return sgd
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(sgd, warmed_cosine(steps))
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def hardest(objective: Objective, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the pair of views of each sample that is least alike for the network (Ferreira et al., ICLR 2025)."""
    z = nn.functional.normalize(objective.project(torch.cat(list(views))), dim=1)
    z = z.view(len(views), -1, z.shape[1]).transpose(0, 1)
    first, second = torch.triu_indices(len(views), len(views), 1, device=z.device)
    pair = (z @ z.mT)[:, first, second].argmin(1)
    x, sample = torch.stack(list(views)), torch.arange(len(z), device=z.device)
    return x[first[pair], sample], x[second[pair], sample]


class TimeIsUp(Exception):  # noqa: N818, as it is no error
    """A run has stopped before its end, with a checkpoint to go on from."""


class Log(pl.Callback):
    """Keeps CPU time and, every few epochs, what `measure` finds, and saves checkpoints.

    There is one after each epoch, and within an epoch after :data:`MINUTES`. It comes last among the callbacks, as it
    saves the states of the others.

    Args:
        measure: its time does not count; None for no measurement.
        every: how often, in epochs.
        tick: called after each epoch.
        until: of `time.monotonic()`, when the run stops after a checkpoint; None for no such end.
    """

    def __init__(
        self,
        measure: Callable[[], dict[str, float]] | None,
        every: int,
        tick: Callable[[], None],
        until: float | None = None,
    ) -> None:
        self.measure, self.every, self.tick = measure, every, tick
        self.until = math.inf if until is None else until
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.begun: tuple[int, int] = (0, 0)  # an epoch, and how many of its batches are behind

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Learn where the checkpoint belongs."""
        self.folder = Path(trainer.default_root_dir)
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.train_dataloader.sampler.begun = self.begun
        self._start, self._behind = time.process_time(), self.begun[1]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # not where an epoch goes on
        self._start, self._behind = time.process_time(), 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._behind += 1
        if self._behind == trainer.num_training_batches:
            return  # what comes at the end of the epoch saves and stops
        late = time.monotonic() >= self.until
        if late or time.monotonic() - self._saved > 60 * MINUTES:
            self.seconds += time.process_time() - self._start
            self._start = time.process_time()
            self.begun = (trainer.current_epoch, self._behind)
            self._save(trainer)
        if late:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds += time.process_time() - self._start
        self.begun = (0, 0)
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, "seconds": round(self.seconds, 1), "loss": trainer.callback_metrics["loss"].item()}
        for name in ("budget", "distortion"):
            if f"viewmaker/{name}" in trainer.callback_metrics:
                row[name] = trainer.callback_metrics[f"viewmaker/{name}"].item()
        if self.measure is not None and self.every and epoch % self.every == 0 and epoch < trainer.max_epochs:
            pl_module.eval()
            row |= self.measure()
            pl_module.train()
        self.curve.append(row)
        self._save(trainer)
        self.tick()
        if time.monotonic() >= self.until and epoch < trainer.max_epochs:
            self._stop(trainer)

    def _stop(self, trainer: Any) -> None:
        raise TimeIsUp(f"Time is up after {trainer.global_step} steps; the same command goes on from there.")

    def _save(self, trainer: Any) -> None:
        with replacing(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept."""
        return {"seconds": self.seconds, "curve": self.curve, "begun": list(self.begun)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.seconds, self.curve = state_dict["seconds"], list(state_dict["curve"])
        epoch, behind = state_dict["begun"]
        self.begun = (epoch, behind)


class Clock(pl.Callback):
    """Keeps the time of each step, the last losses, and at each quarter what `measure` finds, which takes no time."""

    def __init__(self, steps: int, measure: Callable[[], float] | None) -> None:
        self.measure, self.seconds = measure, 0.0
        self.at = {round(steps * quarter / 4) for quarter in (1, 2, 3, 4)} if measure else set()
        self.late = max(1, steps - max(1, steps // 10))
        self.losses: list[Tensor] = []
        self.curve: list[dict[str, float]] = []
        self.prices: list[float] = []

    @property
    def loss(self) -> float:
        """The mean of the last tenth."""
        return torch.stack(self.losses).mean().item() if self.losses else float("nan")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = self._now(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.prices.append(self._now(pl_module) - self._start)
        self.seconds += self.prices[-1]
        step = len(self.prices)
        if step >= self.late:
            self.losses.append(outputs["loss"].detach())
        if step in self.at and self.measure is not None:
            self.curve.append({"steps": step, "seconds": round(self.seconds, 2), "score": self.measure()})
        self._start = self._now(pl_module)

    def _now(self, pl_module: Any) -> float:
        if pl_module.device.type == "cpu":
            return time.process_time()
        torch.accelerator.synchronize()
        return time.perf_counter()


def fit(
    module: Pretraining,
    data: Dataset[Any],
    folder: Path,
    *,
    log: Log,
    logger: Logger | bool = False,
    viewmaker: ViewmakerCallback | None = None,
    accelerator: str = "cpu",
    max_steps: int = -1,
) -> None:
    """Pretrain, from the last epoch that `folder` holds a checkpoint of; checkpoints go when it is done.

    Args:
        module: what to train.
        data: gives batches for lists of indices.
        folder: for checkpoints.
        log: keeps time and measurements.
        logger: Lightning's.
        viewmaker: the learned views, for batches with the key ``views``.
        accelerator: Lightning's.
        max_steps: stop after so many; -1 for no such limit.
    """
    options = module.options
    last = folder / "last.ckpt"
    loader = epoch_loader(data, options.batch)
    trainer = quiet_trainer(
        [*([viewmaker] if viewmaker is not None else []), log],
        accelerator,
        options.precision,
        max_epochs=options.epochs,
        max_steps=max_steps,
        default_root_dir=folder,
        logger=logger,
        log_every_n_steps=20,
    )
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    shutil.rmtree(folder)


def quiet_trainer(
    callbacks: Sequence[pl.Callback], accelerator: str, precision: str = "32-true", **options: Any
) -> pl.Trainer:
    """Return Lightning's trainer for one device that prints nothing and saves nothing by itself."""
    for noisy in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return pl.Trainer(
        callbacks=list(callbacks),
        accelerator=accelerator,
        devices=1,
        precision=_precision(precision, accelerator),  # type: ignore[arg-type]
        enable_checkpointing=False,  # Lightning's would overwrite the last one in place
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def root_device(accelerator: str) -> torch.device:
    """Return the device that Lightning would train on."""
    device: torch.device = quiet_trainer([], accelerator, logger=False).strategy.root_device
    return device


def viewmaker_callback(
    viewmaker: Viewmaker,
    *,
    lr: float,
    seed: int,
    decay: Callable[[int], float] | None = None,
    difficulty: float | None = None,
    unrelated: float | None = None,
    frozen: bool = False,
) -> ViewmakerCallback:
    """Return the callback of learned views for batches with the key ``views``.

    Args:
        viewmaker: the viewmaker.
        lr: of the viewmaker.
        seed: of the noise.
        decay: factor of `lr` by the step, as the encoder's.
        difficulty: that a controller holds; None for none.
        unrelated: the loss of unrelated embeddings, for the controller.
        frozen: whether it does not learn.
    """
    controller = None
    if difficulty is not None:
        if unrelated is None:
            raise ValueError("Expected an objective with a loss of unrelated embeddings for `difficulty`.")
        controller = BudgetController(viewmaker, unrelated=unrelated, target=difficulty)
    rate = lr if decay is None else lambda step: lr * decay(step)
    freeze = 0 if frozen else None
    return ViewmakerCallback(viewmaker, lr=rate, views="views", budget=controller, freeze_after_epoch=freeze, seed=seed)


def _precision(wanted: str, accelerator: str) -> str:
    """Half precision only where there are instructions for it: emulated on a CPU, a step takes ten times as long."""
    on_cpu = accelerator == "cpu" or not torch.accelerator.is_available()
    emulated = on_cpu and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return "32-true" if emulated and wanted == "bf16-mixed" else wanted


class EpochOrder(Sampler[int]):
    """An order that depends on the data set's seed and on the epoch alone, so that a resumed run has the same one."""

    def __init__(self, data: Any, batch: int) -> None:
        self.data, self.batch = data, batch
        self.begun = (0, 0)  # an epoch that goes on, and how many of its batches are behind

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set, too; Lightning calls this."""
        self.data.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1000 * self.data.seed + self.data.epoch)
        order = torch.randperm(len(self.data), generator=generator).tolist()
        epoch, behind = self.begun
        return iter(order[behind * self.batch :] if epoch == self.data.epoch else order)


def epoch_loader(data: Dataset[Any], batch: int) -> DataLoader[Any]:
    """Return whole batches of a data set that gives them for lists of indices, in an order of each epoch's own."""
    return DataLoader(data, sampler=EpochOrder(data, batch), batch_size=batch, drop_last=True, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
