"""Methods: one optimizer under automatic optimization, parameter groups as dictionaries, hooks to override."""

from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn


class BaseMethod(LightningModule):
    _OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}  # noqa: RUF012 - as in the original

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(8, 5)
        self.num_large_crops = cfg.get("num_large_crops", 2)
        self.optimizer, self.lr = cfg.optimizer.name, cfg.optimizer.lr
        self.seen = []

    @staticmethod
    def add_and_assert_specific_cfg(cfg):
        return cfg

    @property
    def learnable_params(self):
        head = {"name": "classifier", "params": self.classifier.parameters(), "lr": 0.1, "weight_decay": 0}
        if self.cfg.get("static_lr"):
            head["static_lr"] = True
        return [{"name": "backbone", "params": self.backbone.parameters()}, head]

    def configure_optimizers(self):
        groups = self.learnable_params
        if self.cfg.get("exclude_bias_n_norm_wd"):
            groups = [part for group in groups for part in without_decay(group)]
        fixed = [i for i, group in enumerate(groups) if group.pop("static_lr", False)]
        optimizer = self._OPTIMIZERS[self.optimizer](groups, lr=self.lr, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))  # warm-up
        if fixed:
            scheduler.get_lr = partial(keep, scheduler.get_lr, fixed, self.lr)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def forward(self, x):
        return self.backbone(x)

    def base_training_step(self, X, targets):  # noqa: N803
        feats = self(X)
        loss = F.cross_entropy(self.classifier(feats.detach()), targets, ignore_index=-1)
        return {"feats": feats, "loss": loss}

    def training_step(self, batch, batch_idx):
        _, X, targets = batch  # noqa: N806
        X = [X] if isinstance(X, torch.Tensor) else X  # noqa: N806
        self.seen.append([x.detach() for x in X])
        outs = [self.base_training_step(x, targets) for x in X[: self.num_large_crops]]
        feats = [out["feats"] for out in outs] + [self(x) for x in X[self.num_large_crops :]]
        return {"feats": feats, "loss": sum(out["loss"] for out in outs) / len(outs)}


class SimCLR(BaseMethod):
    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        z = F.normalize(torch.cat(out["feats"]), dim=1)
        logits = (z @ z.T / 0.2).fill_diagonal_(-1e4)
        partner = torch.arange(len(z)).roll(len(z) // 2)
        return out["loss"] + F.cross_entropy(logits, partner)


class BYOL(BaseMethod):
    """With a momentum branch, which is fed with the crops of the same batch."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.momentum_backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.momentum_backbone.requires_grad_(False)
        self.targets_seen = []

    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        self.targets_seen.append([x.detach() for x in batch[1]])
        with torch.no_grad():
            targets = [self.momentum_backbone(x) for x in batch[1]]
        return out["loss"] - sum(F.cosine_similarity(f, t).mean() for f, t in zip(out["feats"], targets[::-1]))  # noqa: B905


class MAE(BaseMethod):
    """Rebuilds the pixels of the batch from the features of what ``base_training_step`` is given."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.decoder = nn.Linear(8, 3)
        self.targets_seen = []

    @property
    def learnable_params(self):
        return [*super().learnable_params, {"name": "decoder", "params": self.decoder.parameters()}]

    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        images = [batch[1]] if isinstance(batch[1], torch.Tensor) else batch[1]
        self.targets_seen.append(images)
        pairs = zip(out["feats"], images, strict=True)
        return out["loss"] + sum((self.decoder(f) - x.mean((2, 3))).square().mean() for f, x in pairs)


def without_decay(group):
    """Split a group into what has weight decay and what has none."""
    rest = {key: value for key, value in group.items() if key != "params"}
    params = list(group["params"])
    matrices, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    split = [{**rest, "params": matrices}, {**rest, "weight_decay": 0, "params": vectors}]
    return [part for part in split if part["params"]]


def keep(get_lr, indices, lr):
    rates = get_lr()
    for i in indices:
        rates[i] = lr
    return rates


METHODS = {"simclr": SimCLR, "byol": BYOL, "mae": MAE, "ressl": BYOL}
