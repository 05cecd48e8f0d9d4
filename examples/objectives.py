"""Self-supervised objectives on pairs of views, of lightly's heads and losses."""

import copy
from collections.abc import Sequence

import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn


class Objective(nn.Module):
    """An encoder's loss on two views, by a symmetric criterion on their projections."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head, self.criterion = backbone, head, criterion

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.criterion(*self.project(torch.cat([x0, x1])).chunk(2))

    def project(self, x: Tensor) -> Tensor:
        """Encode and project views."""
        return self.head(self.backbone(x))


class SimSiam(Objective):
    """A view's prediction is drawn to the other view's projection (Chen & He, CVPR 2021)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, head, NegativeCosineSimilarity())
        self.predictor = predictor

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = self.project(torch.cat([x0, x1])).chunk(2)
        t0, t1 = self.targets(x0, x1, z0, z1)
        return (self.criterion(self.predictor(z0), t1) + self.criterion(self.predictor(z1), t0)) / 2

    def targets(self, x0: Tensor, x1: Tensor, z0: Tensor, z1: Tensor) -> Sequence[Tensor]:
        """Return what is predicted, without a gradient."""
        return z0.detach(), z1.detach()


class BYOL(SimSiam):
    """As SimSiam, with targets of a slowly moving average (Grill et al., NeurIPS 2020)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module, momentum: float = 0.99) -> None:
        super().__init__(backbone, head, predictor)
        self.momentum = momentum
        self.teacher = _teacher(backbone, head)

    def targets(self, x0: Tensor, x1: Tensor, z0: Tensor, z1: Tensor) -> Sequence[Tensor]:
        _follow(self.teacher, self.backbone, self.head, self.momentum)
        with torch.no_grad():
            return self.teacher(torch.cat([x0, x1])).chunk(2)


class MoCo(Objective):
    """A view's projection against a slow copy's of the other and a queue of earlier ones (He et al., CVPR 2020)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module, momentum: float = 0.99) -> None:
        super().__init__(backbone, head, criterion)
        self.momentum = momentum
        self.teacher = _teacher(backbone, head)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        _follow(self.teacher, self.backbone, self.head, self.momentum)
        with torch.no_grad():
            key = self.teacher(x1)
        return self.criterion(self.project(x0), key)


def _teacher(backbone: nn.Module, head: nn.Module) -> nn.Sequential:
    teacher = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(head))
    deactivate_requires_grad(teacher)
    return teacher


def _follow(teacher: nn.Sequential, backbone: nn.Module, head: nn.Module, momentum: float) -> None:
    update_momentum(backbone, teacher[0], momentum)
    update_momentum(head, teacher[1], momentum)


OBJECTIVES = ("simclr", "byol", "simsiam", "vicreg", "barlow", "moco")


def objective(name: str, backbone: nn.Module, features: int, temperature: float = 0.1) -> Objective:
    """Build an objective for an encoder with so many features.

    Args:
        name: one of :data:`OBJECTIVES`.
        backbone: the encoder.
        features: number of its features.
        temperature: of the contrastive losses, SimCLR's and MoCo's.
    """
    n = features
    match name:
        case "simclr":
            return Objective(backbone, heads.SimCLRProjectionHead(n, n, n), NTXentLoss(temperature))
        case "byol":
            return BYOL(backbone, heads.BYOLProjectionHead(n, 4 * n, n), heads.BYOLPredictionHead(n, 4 * n, n))
        case "simsiam":
            return SimSiam(backbone, heads.SimSiamProjectionHead(n, n, n), heads.SimSiamPredictionHead(n, n // 4, n))
        case "vicreg":
            return Objective(backbone, heads.VICRegProjectionHead(n, 4 * n, 4 * n), VICRegLoss())
        case "barlow":
            return Objective(backbone, heads.BarlowTwinsProjectionHead(n, 4 * n, 4 * n), BarlowTwinsLoss())
        case "moco":
            queue = NTXentLoss(temperature, memory_bank_size=(1024, n))
            return MoCo(backbone, heads.MoCoProjectionHead(n, n, n), queue)
    raise ValueError(f"Expected `name` to be one of {', '.join(OBJECTIVES)}, but got {name!r}.")
