"""Add the generator's output to the input."""

from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw


class Additive(Perturbation):
    """Adds ``tanh(raw)``, as Viewmaker Networks do (Tamkin et al., ICLR 2021, Algorithm 1; tanh as in their code).

    Its random twin is white noise, almost Gaussian, as in denoising autoencoders (Vincent et al., ICML 2008).
    """

    scales_up = True

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=channels)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(maps=0.1 * noise.maps)  # small for tanh, so that a departure can be ten times as large

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        return raw.maps.tanh()
