"""What can be known of features without labels; none of it decides."""

import torch
import torch.nn.functional as F
from torch import Tensor

PROXIES = {  # and which end of each is taken for the better one
    "alignment": -1,
    "uniformity": -1,
    "rank": 1,
    "halves": 1,
}


def alignment(z0: Tensor, z1: Tensor) -> float:
    """Return the mean squared distance of two views' normalised features (Wang & Isola, ICML 2020).

    Shape:
        - z0, z1: ``(B, F)``.

    Examples:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0))
        2.0
    """
    return (F.normalize(z0) - F.normalize(z1)).square().sum(1).mean().item()


def uniformity(z: Tensor) -> float:
    """Return the logarithm of the mean Gaussian potential of normalised features, 0 if all are one (same source).

    Shape:
        - z: ``(B, F)``.

    Examples:
        >>> uniformity(torch.ones(3, 2))
        0.0
    """
    return torch.pdist(F.normalize(z)).square().mul(-2).exp().mean().log().item()


def effective_rank(z: Tensor) -> float:
    """Return the exponential of the entropy of the features' singular values (RankMe, Garrido et al., ICML 2023).

    Shape:
        - z: ``(B, F)``.

    Examples:
        >>> round(effective_rank(torch.eye(4)), 3)
        4.0
    """
    values = torch.linalg.svdvals(z.double())
    share = values / values.sum().clamp(min=1e-30)
    return (-(share * share.clamp(min=1e-30).log()).sum()).exp().item()


def retrieval(first: Tensor, second: Tensor) -> float:
    """Return how often, in %, the nearest of the second halves' features is that of the same sample.

    Shape:
        - first, second: ``(B, F)``.

    Examples:
        >>> retrieval(torch.eye(4), torch.eye(4))
        100.0
    """
    nearest = (F.normalize(first) @ F.normalize(second).T).argmax(1)
    return 100 * (nearest == torch.arange(len(first), device=nearest.device)).double().mean().item()
