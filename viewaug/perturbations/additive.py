"""Add the generator's output to the input."""

from torch import Tensor

from viewaug.perturbations.base import Perturbation


class Additive(Perturbation):
    """Adds ``tanh(raw)``, as Viewmaker Networks do (Tamkin et al., ICLR 2021, Algorithm 1; tanh as in their code)."""

    scales_up = True

    def residual(self, x: Tensor, raw: Tensor) -> Tensor:
        """Return ``tanh(raw)``."""
        return raw.tanh()
