"""Rotate, scale, shear and translate the input."""

import math

from kornia.geometry import get_affine_matrix2d, warp_affine
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw


class Affine(Perturbation):
    """Rotates an image by up to 30 degrees, scales each axis by 2/3 to 3/2, and shears and translates it.

    Each axis is sheared by up to 15 degrees and translated by up to a quarter of its side, by kornia.geometry; what
    comes in from outside is a reflection.

    Its random twin draws half of that, as RandAugment's geometric operations do (Cubuk et al., NeurIPS 2020).
    """

    dims = (2,)
    unitless = True
    geometric = True

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=7)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(numbers=0.5 * noise.numbers)

    def forward(self, x: Tensor, raw: Raw) -> Tensor:
        height, width = x.shape[2:]
        size = x.new_tensor([width, height])
        angle, scale, shear, shift = self._split(raw)
        shear = shear * math.radians(1)
        matrix = get_affine_matrix2d(
            shift * size,
            ((size - 1) / 2).expand(x.shape[0], 2),
            scale,
            angle[:, 0],
            shear[:, 0],
            shear[:, 1],
        )
        return warp_affine(x, matrix[:, :2], (height, width), padding_mode="reflection", align_corners=False)

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        angle, *pairs = self._split(raw)
        named = zip(("scale {} [factor]", "shear {} [°]", "translation {} [share of side]"), pairs, strict=True)
        both = {name.format(axis): pair[:, i] for name, pair in named for i, axis in enumerate("WH")}
        return {"rotation [°]": angle[:, 0], **both}

    def _split(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the angle, and for both axes, W and H, factors, angles of shearing, and shifts as shares of a side."""
        angle, scale, shear, shift = (self.strength * raw.numbers.tanh()).split([1, 2, 2, 2], 1)
        return 30 * angle, (math.log(1.5) * scale).exp(), 15 * shear, shift / 4
