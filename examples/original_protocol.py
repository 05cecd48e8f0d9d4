"""The protocol of the papers' code: two optimizers in turn, each with a forward pass of its own.

The encoder steps first, and the viewmaker then meets the encoder that has stepped. Gradient reversal takes the same
gradients for both at once, from one pass. The method `original` of the multi-task experiments trains so.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer


class Player(NamedTuple):
    """One of the two players, and whether it lowers the loss, 1, or raises it, -1."""

    modules: nn.Module
    optimizer: Optimizer
    sign: int


def alternating_step(loss: Callable[[], Tensor], encoder: Player, viewmaker: Player) -> Tensor:
    """Step both players in turn.

    Args:
        loss: makes views and returns the encoder's loss on them; called once for each player.
        encoder: the encoder with all heads.
        viewmaker: the viewmaker.

    Returns:
        The loss that the encoder met.

    Examples:
        >>> from lightly.loss import NTXentLoss
        >>> encoder, viewmaker = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 8)), viewaug.Viewmaker()
        >>> players = (
        ...     Player(encoder, torch.optim.SGD(encoder.parameters(), lr=0.06), 1),
        ...     Player(viewmaker, torch.optim.Adam(viewmaker.parameters(), lr=1e-3), -1),
        ... )
        >>> x, criterion = torch.rand(8, 3, 4, 4), NTXentLoss()
        >>> alternating_step(lambda: criterion(encoder(viewmaker(x)), encoder(viewmaker(x))), *players).shape
        torch.Size([])
    """
    losses = []
    for player, other in ((encoder, viewmaker), (viewmaker, encoder)):
        # What does not step needs no gradient of its own, only lets it through.
        frozen = [parameter for parameter in other.modules.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        value = loss()
        player.optimizer.zero_grad()
        (player.sign * value).backward()
        player.optimizer.step()
        for parameter in frozen:
            parameter.requires_grad_(True)
        losses.append(value.detach())
    return losses[0]
