"""Add the generator's output to the input."""

from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw


class Additive(Perturbation):
    """Adds ``tanh(raw)``, as Viewmaker Networks do (Tamkin et al., ICLR 2021, Algorithm 1; tanh as in their code)."""

    scales_up = True

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=channels)

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        return raw.maps.tanh()
