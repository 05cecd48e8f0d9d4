"""Contrastive pretraining on pairs of views by Lightning: the module, the encoders, and one run that can be resumed."""

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.examples.original_protocol import Player, alternating_step
from viewaug.examples.schedules import warmed_cosine

import viewaug
from viewaug._files import replacing


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


class Contrastive(pl.LightningModule):
    """SimCLR (Chen et al., ICML 2020) on batches that are dictionaries with two ``views``.

    Args:
        encoder: takes inputs as they are, and returns `features` features.
        features: how many.
        options: how to train.
        augment: makes a view by hand of a batch, before learned ones, if any, are made of it.
        seed: of augmentations, which depend on it and on the step alone, so that a resumed run has the same ones.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        options: Training,
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.options, self.augment, self.seed = encoder, options, augment, seed
        self.head = SimCLRProjectionHead(features, features, 128)
        self.criterion = NTXentLoss(options.temperature)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        torch.manual_seed(random.Random(repr((self.seed, self.trainer.global_step))).getrandbits(63))
        if self.augment is None:
            return batch
        return {**batch, "views": [self.augment(view) for view in batch["views"]]}

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        x = torch.cat(batch["views"])
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        loss = self.criterion(*self.head(self.encoder(x)).float().chunk(2))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        options = self.options
        sgd = torch.optim.SGD(self.parameters(), lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
        if not options.cosine:
            return sgd
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(sgd, warmed_cosine(steps))
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class InTurns(Contrastive):
    """The protocol of the papers' code: two optimizers in turn, its loss, the network's plain linear projection."""

    def __init__(
        self, encoder: nn.Module, features: int, options: Training, viewmaker: viewaug.Viewmaker, seed: int = 0
    ) -> None:
        super().__init__(encoder, features, options, seed=seed)
        self.head = nn.Linear(features, 128)
        self.viewmaker = viewmaker
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        players = nn.ModuleList([self.encoder, self.head])
        sgd, adam = self.optimizers()  # type: ignore[attr-defined, unused-ignore]

        def views_loss() -> Tensor:
            z0, z1 = (self.head(self.encoder(self.viewmaker(view))).float() for view in batch["views"])
            return original_loss(z0, z1, self.options.temperature)

        loss = alternating_step(views_loss, Player(players, sgd, 1), Player(self.viewmaker, adam, -1))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        options = self.options
        mine = [*self.encoder.parameters(), *self.head.parameters()]
        sgd = torch.optim.SGD(mine, lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
        return [sgd, torch.optim.Adam(self.viewmaker.parameters(), lr=options.viewmaker_lr)]


def original_loss(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Return the loss of the papers' code: anchors are first views alone, and each is among its own negatives.

    ``mean_i(logsumexp_j(z0_i . [z0; z1]_j / t) - log(2 B) - z0_i . z1_i / t)`` of normalised embeddings.

    Examples:
        >>> z = torch.eye(4)
        >>> round(float(original_loss(z, z, temperature=1.0)), 4)  # log((2 e + 6) / 8) - 1
        -0.6426
    """
    z0, z1 = (nn.functional.normalize(z) for z in (z0, z1))
    all_of_them = (z0 @ torch.cat([z0, z1]).T / temperature).logsumexp(1) - math.log(2 * len(z0))
    return (all_of_them - (z0 * z1).sum(1) / temperature).mean()


class Standardise(nn.Module):
    """Subtract a mean and divide by a standard deviation, of every channel."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def build_encoder(name: str, channels: int = 3, *, mean: float = 0.47, std: float = 0.25) -> tuple[nn.Sequential, int]:
    """Build an encoder by timm, and return it with its number of features.

    Args:
        name: ``"small"``, a ResNet of four blocks and 308,000 parameters for small images, or a ResNet of timm's, which
            gets a stem for small images (3 x 3, without stride and pooling).
        channels: of the input.
        mean: of the input.
        std: of the input.

    Examples:
        >>> encoder, features = build_encoder("small")
        >>> encoder(torch.rand(2, 3, 32, 32)).shape[1] == features
        True
    """
    if name == "small":
        net: Any = timm.models.resnet.ResNet(
            timm.models.resnet.BasicBlock,  # type: ignore[arg-type]
            (1, 1, 1, 1),
            channels=(16, 32, 64, 128),
            stem_width=8,
            stem_type="deep",
            in_chans=channels,
            num_classes=0,
            zero_init_last=False,  # as identities the blocks need many epochs to begin
        )
    else:
        net = timm.create_model(name, in_chans=channels, num_classes=0)
    net.conv1 = nn.Conv2d(channels, net.bn1.num_features, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return nn.Sequential(Standardise(mean, std), net), int(net.num_features)


class Log(pl.Callback):
    """Keeps CPU time and, every few epochs, what `measure` finds, and saves a checkpoint after each epoch.

    It comes last among the callbacks, as it saves the states of the others.

    Args:
        measure: its time does not count; None for no measurement.
        every: how often, in epochs.
        tick: called after each epoch.
    """

    def __init__(self, measure: Callable[[], dict[str, float]] | None, every: int, tick: Callable[[], None]) -> None:
        self.measure, self.every, self.tick = measure, every, tick
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Learn where the checkpoint belongs."""
        self.folder = Path(trainer.default_root_dir)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.process_time()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds += time.process_time() - self._start
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
        with replacing(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary)
        self.tick()

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept."""
        return {"seconds": self.seconds, "curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.seconds, self.curve = state_dict["seconds"], list(state_dict["curve"])


def fit(
    module: Contrastive,
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
    loader = DataLoader(data, sampler=EpochOrder(data), batch_size=options.batch, drop_last=True, collate_fn=_as_it_is)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        max_steps=max_steps,
        default_root_dir=folder,
        accelerator=accelerator,
        devices=1,
        precision=_precision(options.precision, accelerator),  # type: ignore[arg-type]
        callbacks=[
            *([viewmaker] if viewmaker is not None else []),
            log,
        ],
        enable_checkpointing=False,  # Lightning's would overwrite the last one in place; the log replaces it
        logger=logger,
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    shutil.rmtree(folder)


def _precision(wanted: str, accelerator: str) -> str:
    """Half precision only where there are instructions for it: emulated on a CPU, a step takes ten times as long."""
    on_cpu = accelerator == "cpu" or not torch.accelerator.is_available()
    emulated = on_cpu and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return "32-true" if emulated and wanted == "bf16-mixed" else wanted


class EpochOrder(Sampler[int]):
    """An order that depends on the data set's seed and on the epoch alone, so that a resumed run has the same one."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set, too; Lightning calls this."""
        self.data.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1000 * self.data.seed + self.data.epoch)
        return iter(torch.randperm(len(self.data), generator=generator).tolist())


def _as_it_is(batch: Any) -> Any:
    return batch
