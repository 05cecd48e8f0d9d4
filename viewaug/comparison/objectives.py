"""Self-supervised objectives on pairs of views, of lightly's heads and losses."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn


class Objective(nn.Module):
    """An encoder's loss on two views, by a symmetric criterion on their projections.

    A call may say which samples of the data these are, by `index`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head, self.criterion = backbone, head, criterion

    def forward(self, x0: Tensor, x1: Tensor, index: Tensor | None = None) -> Tensor:
        return self.criterion(*self.project(torch.cat([x0, x1])).chunk(2))

    def project(self, x: Tensor) -> Tensor:
        """Encode and project views."""
        return self.head(self.backbone(x)).float()

    def unrelated(self, batch: int) -> float | None:
        """Return the loss of unrelated embeddings, for a budget controller; None where there is no such number."""
        return None


class SimCLR(Objective):
    """NT-Xent (Chen et al., ICML 2020)."""

    def unrelated(self, batch: int) -> float:
        return math.log(2 * batch - 1)


class ModifiedNTXent(nn.Module):
    """NT-Xent, averaged with itself where implicit features are modified (Robinson et al., NeurIPS 2021).

    Against suppression of features: in the other half each positive is less alike by `epsilon`, each negative more.
    """

    def __init__(self, temperature: float, epsilon: float = 0.1) -> None:
        super().__init__()
        self.temperature, self.epsilon = temperature, epsilon

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        z = nn.functional.normalize(torch.cat([z0, z1]))
        n = len(z0)
        place = torch.arange(2 * n, device=z.device)
        partner = (place + n) % (2 * n)
        alike = (z @ z.T).fill_diagonal_(-math.inf)
        harder = (alike + self.epsilon).scatter(1, partner[:, None], alike[place, partner][:, None] - self.epsilon)
        losses = [nn.functional.cross_entropy(part / self.temperature, partner) for part in (alike, harder)]
        return (losses[0] + losses[1]) / 2


class InstanceDiscrimination(Objective):
    """One view against a memory bank of all samples' earlier projections, the first viewmaker paper's other objective.

    From Wu et al., CVPR 2018, as Viewmaker Networks has it: `negatives` drawn from the bank, whose entries follow the
    projections with a momentum of a half.
    """

    bank: Tensor

    def __init__(
        self, backbone: nn.Module, head: nn.Module, size: int, width: int, temperature: float, negatives: int = 4096
    ) -> None:
        super().__init__(backbone, head, nn.CrossEntropyLoss())
        self.temperature, self.negatives = temperature, min(negatives, size)
        self.register_buffer("bank", nn.functional.normalize(torch.randn(size, width)))

    def forward(self, x0: Tensor, x1: Tensor, index: Tensor | None = None) -> Tensor:
        if index is None:
            raise ValueError("Expected `index`, which samples these are, for instance discrimination.")
        z = nn.functional.normalize(self.project(x0))
        own = self.bank[index]
        others = self.bank[torch.randint(len(self.bank), (self.negatives,), device=z.device)]
        logits = torch.cat([(z * own).sum(1, keepdim=True), z @ others.T], 1) / self.temperature
        with torch.no_grad():
            self.bank[index] = nn.functional.normalize((own + z) / 2)
        return self.criterion(logits, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def unrelated(self, batch: int) -> float:
        return math.log(self.negatives + 1)


class Supervised(Objective):
    """Cross-entropy of all labels, of one view: what an encoder can know.

    Args:
        backbone: the encoder.
        features: number of its features.
        labels: ``(N,)`` for each label's name, from 0 or -1 for unknown, of all samples of the data.
    """

    labels: Tensor

    def __init__(self, backbone: nn.Module, features: int, labels: Mapping[str, Tensor]) -> None:
        layers = nn.ModuleList(nn.Linear(features, int(label.max()) + 1) for label in labels.values())
        super().__init__(backbone, layers, nn.CrossEntropyLoss(ignore_index=-1, reduction="sum"))
        self.layers = layers
        self.register_buffer("labels", torch.stack(list(labels.values())))

    def forward(self, x0: Tensor, x1: Tensor, index: Tensor | None = None) -> Tensor:
        z, truth = self.backbone(x0), self.labels[:, index]
        losses = [self.criterion(head(z), label) for head, label in zip(self.layers, truth, strict=True)]
        return (torch.stack(losses) / (truth >= 0).sum(1).clamp(min=1)).sum()


class SimSiam(Objective):
    """A view's prediction is drawn to the other view's projection (Chen & He, CVPR 2021)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, head, NegativeCosineSimilarity())
        self.predictor = predictor

    def forward(self, x0: Tensor, x1: Tensor, index: Tensor | None = None) -> Tensor:
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

    def forward(self, x0: Tensor, x1: Tensor, index: Tensor | None = None) -> Tensor:
        _follow(self.teacher, self.backbone, self.head, self.momentum)
        with torch.no_grad():
            key = self.teacher(x1)
        return self.criterion(self.project(x0), key)

    def unrelated(self, batch: int) -> float:
        return math.log(_QUEUE + 1)


def _teacher(backbone: nn.Module, head: nn.Module) -> nn.Sequential:
    teacher = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(head))
    deactivate_requires_grad(teacher)
    return teacher


def _follow(teacher: nn.Sequential, backbone: nn.Module, head: nn.Module, momentum: float) -> None:
    update_momentum(backbone, teacher[0], momentum)
    update_momentum(head, teacher[1], momentum)


OBJECTIVES = ("simclr", "ifm", "byol", "simsiam", "vicreg", "barlow", "moco", "instance")
_QUEUE = 1024


def objective(
    name: str,
    backbone: nn.Module,
    features: int,
    temperature: float = 0.1,
    *,
    width: int | None = None,
    samples: int | None = None,
) -> Objective:
    """Build an objective for an encoder with so many features.

    Args:
        name: one of :data:`OBJECTIVES`: SimCLR's NT-Xent, the same with implicit feature modification, BYOL, SimSiam,
            VICReg, Barlow Twins, MoCo, or instance discrimination with a memory bank.
        backbone: the encoder.
        features: number of its features.
        temperature: of the contrastive losses.
        width: of the projections of ``"simclr"``, ``"ifm"``, ``"moco"`` and ``"instance"``; None for `features`.
        samples: number of samples in the data, for ``"instance"``.
    """
    n, out = features, width or features
    match name:
        case "simclr":
            return SimCLR(backbone, heads.SimCLRProjectionHead(n, n, out), NTXentLoss(temperature))
        case "ifm":
            return SimCLR(backbone, heads.SimCLRProjectionHead(n, n, out), ModifiedNTXent(temperature))
        case "byol":
            return BYOL(backbone, heads.BYOLProjectionHead(n, 4 * n, n), heads.BYOLPredictionHead(n, 4 * n, n))
        case "simsiam":
            return SimSiam(backbone, heads.SimSiamProjectionHead(n, n, n), heads.SimSiamPredictionHead(n, n // 4, n))
        case "vicreg":
            return Objective(backbone, heads.VICRegProjectionHead(n, 4 * n, 4 * n), VICRegLoss())
        case "barlow":
            return Objective(backbone, heads.BarlowTwinsProjectionHead(n, 4 * n, 4 * n), BarlowTwinsLoss())
        case "moco":
            queue = NTXentLoss(temperature, memory_bank_size=(_QUEUE, out))
            return MoCo(backbone, heads.MoCoProjectionHead(n, n, out), queue)
        case "instance" if samples:
            return InstanceDiscrimination(backbone, heads.SimCLRProjectionHead(n, n, out), samples, out, temperature)
        case "instance":
            raise ValueError("Expected `samples`, how many there are, for instance discrimination.")
    raise ValueError(f"Expected `name` to be one of {', '.join(OBJECTIVES)}, but got {name!r}.")
