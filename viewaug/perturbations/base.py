"""What every perturbation has in common."""

from torch import Tensor, nn


class Perturbation(nn.Module):
    """Turns a generator's raw output into a candidate for the view; the budget then bounds candidate - input.

    A subclass defines :meth:`forward`, which must return `x` itself for a raw output of zero.

    Args:
        channels: channels of the input.
        dims: number of spatial dimensions of the input.
    """

    #: whether the budget scales the residual up as well as down
    scales_up = False

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.channels = channels
        self.dims = dims

    @property
    def maps(self) -> int:
        """Number of dense maps that the generator has to make."""
        return self.channels

    def analyse(self, x: Tensor) -> Tensor:
        """Return what the generator sees of an input."""
        return x

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        """Return a candidate for the view of `x`; both arguments are float32 or wider."""
        return x + self.residual(x, raw)

    def residual(self, x: Tensor, raw: Tensor) -> Tensor:
        """Return candidate - input; a perturbation that has it without the subtraction overrides this instead."""
        return self(x, raw) - x
