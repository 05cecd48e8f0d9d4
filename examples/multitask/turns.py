"""The papers' own protocol of training: two optimizers in turn, and the loss of their code."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from viewaug.examples.original_protocol import Player, alternating_step

import viewaug
from viewaug.comparison.objectives import Objective
from viewaug.comparison.training import Pretraining, Training


class InTurns(Pretraining):
    """The protocol of the papers' code: two optimizers in turn, its loss, the network's plain linear projection."""

    def __init__(
        self, encoder: nn.Module, features: int, options: Training, viewmaker: viewaug.Viewmaker, seed: int = 0
    ) -> None:
        super().__init__(Objective(encoder, nn.Linear(features, 128), nn.Identity()), options, seed=seed)
        self.viewmaker = viewmaker
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        sgd, adam = self.optimizers()  # type: ignore[attr-defined, unused-ignore]

        def views_loss() -> Tensor:
            z0, z1 = (self.objective.project(self.viewmaker(view)) for view in batch["views"])
            return original_loss(z0, z1, self.options.temperature)

        loss = alternating_step(views_loss, Player(self.objective, sgd, 1), Player(self.viewmaker, adam, -1))
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        options = self.options
        mine = self.objective.parameters()
        sgd = torch.optim.SGD(mine, lr=options.lr, momentum=0.9, weight_decay=options.weight_decay)
        return [sgd, torch.optim.Adam(self.viewmaker.parameters(), lr=options.viewmaker_lr)]


def original_viewmaker(channels: int, budget: float) -> viewaug.Viewmaker:
    """Return the network of the papers, without a clamp."""
    options: dict[str, Any] = {"constraint": "rescale", "value_range": None}
    return viewaug.Viewmaker(channels, budget=budget, generator="reference", **options)


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
