"""Change colours: brightness, contrast, gamma, saturation and hue."""

import math

import torch
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw, per_sample


class Colour(Perturbation):
    """Changes the colours of images in [0, 1] as wholes, as kornia's functions do, in this order.

    Brightness is moved by up to 1/2, contrast is multiplied by 0 to 2, the exponent gamma lies between 1/3 and 3,
    saturation is multiplied by 0 to 2, and hue is turned by up to half a circle. Images of other than three channels
    have no saturation and no hue.

    Its random twin is SimCLR's colour jitter (Chen et al., ICML 2020): half of that, as a rule, and a fifth of the hue.
    """

    dims = (2,)
    unit_range = True

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=5 if channels == 3 else 3)

    def twin(self, noise: Raw) -> Raw:
        factors = noise.numbers.new_tensor([0.5, 0.5, 0.5, 0.5, 0.2])
        return noise._replace(numbers=noise.numbers * factors[: noise.numbers.shape[1]])

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        # An infinite slope of gamma at black is kept out; what lies outside the range is changed like its ends.
        base = x.clamp(1e-3, 1)
        brightness, contrast, gamma, *rest = per_sample(self.strength * raw.numbers.tanh(), 2).split(1, 1)
        y = (base + brightness / 2).clamp(max=1) * (1 + contrast)
        y = (y.clamp(1e-3, 1).log() * (math.log(3) * gamma).exp()).exp()
        if rest:
            saturation, hue = rest
            y = _turn(y, 1 + saturation, 3 * hue)
        return y - base

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        brightness, contrast, gamma, *rest = (self.strength * raw.numbers.tanh()).unbind(1)
        found = {
            "brightness [of range]": brightness / 2,
            "contrast [factor]": 1 + contrast,
            "gamma [exponent]": (math.log(3) * gamma).exp(),
        }
        if rest:
            found |= {"saturation [factor]": 1 + rest[0], "hue [°]": 180 * rest[1]}
        return found


def _turn(rgb: Tensor, saturation: Tensor, sixths: Tensor) -> Tensor:
    """Multiply saturation, up to 1, and turn hue by sixths of a circle, in HSV (Smith, SIGGRAPH 1978).

    From the hue's distance to red, green and blue follow the channels: value - chroma * (distance - 1), the factor
    kept in [0, 1]. The distance to red is 1 + (green + blue - red - lowest) / chroma, and its sign that of
    green - blue. kornia's functions, by HSV and back, take two and a half times as long.
    """
    red, green, blue = rgb.split(1, 1)
    value, lowest = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    chroma = value - lowest
    hue = (1 + (green + blue - red - lowest) / (chroma + 1e-9)).copysign(green - blue) + sixths
    primaries = torch.arange(0, 6, 2, dtype=rgb.dtype, device=rgb.device).view(3, 1, 1)
    distance = ((hue + (3 - primaries)) % 6 - 3).abs()
    return value - torch.minimum(chroma * saturation, value) * (distance - 1).clamp(0, 1)
