"""Contrastive pretraining on pairs of views: the module, the views of each method, the encoders and one run of it all."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn
from torch.utils.data import DataLoader

import viewaug
from viewaug.adapters.lightning import ViewmakerCallback
from viewaug.budget import constrain


@dataclass(frozen=True)
class Training:
    """How to pretrain."""

    epochs: int = 30
    batch: int = 256
    lr: float = 0.03
    weight_decay: float = 1e-4
    cosine: bool = True
    temperature: float = 0.1
    budget: float = 0.05
    difficulty: float | None = None  # what a controller holds; None for a fixed budget
    gain: float = 0.02
    viewmaker_lr: float = 1e-3
    generator: str = "fast"
    width: int = 32  # of the fast generator
    precision: str = "bf16-mixed"


class Contrastive(pl.LightningModule):
    """SimCLR (Chen et al., ICML 2020) on batches that are dictionaries with two ``views``.

    Args:
        backbone: the encoder; takes images in [0, 1].
        features: number of its features.
        options: how to train.
        augment: what to do to a batch before learned views, if there are any, are made of it.
    """

    def __init__(
        self, backbone: nn.Module, features: int, options: Training, augment: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.backbone, self.options, self.augment = backbone, options, augment
        self.head = SimCLRProjectionHead(features, features, 128)
        self.criterion = NTXentLoss(options.temperature)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if self.augment is not None:
            with torch.autocast(self.device.type, enabled=False):
                batch = {**batch, "views": [self.augment(view) for view in batch["views"]]}
        return batch

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        x = torch.cat(batch["views"]).contiguous(memory_format=torch.channels_last)
        loss = self.criterion(*self.head(self.backbone(x)).float().chunk(2))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        options = self.options
        sgd = torch.optim.SGD(self.parameters(), lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
        if not options.cosine:
            return sgd
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            sgd, lambda step: min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
