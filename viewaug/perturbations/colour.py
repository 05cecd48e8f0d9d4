"""Change colours: brightness, contrast, gamma, saturation and hue."""

import math

from kornia import color, enhance
from torch import Tensor

from viewaug.perturbations.base import Needs, Perturbation, Raw, per_sample, split_bad


class Colour(Perturbation):
    """Changes the colours of images in [0, 1] as wholes, by kornia's functions, in this order.

    Brightness is moved by up to 1/2, contrast is multiplied by 0 to 2, the exponent gamma lies between 1/3 and 3,
    saturation is multiplied by 0 to 2, and hue is turned by up to half a circle. Images of other than three channels
    have no saturation and no hue.
    """

    dims = (2,)
    unit_range = True

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(numbers=5 if channels == 3 else 3)

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        # An infinite slope of gamma at black is kept out; what lies outside the range is changed like its ends.
        base = x.clamp(1e-3, 1)
        numbers, bad = split_bad(raw.numbers)
        brightness, contrast, gamma, *hsv = numbers.tanh().unbind(1)
        y = enhance.adjust_brightness(base, brightness / 2)
        y = enhance.adjust_contrast(y, 1 + contrast)
        y = enhance.adjust_gamma(y.clamp(min=1e-3), (math.log(3) * gamma).exp())
        if hsv:
            saturation, hue = hsv
            y = color.rgb_to_hsv(y)
            y = enhance.adjust_hue_raw(enhance.adjust_saturation_raw(y, 1 + saturation), math.pi * hue)
            y = color.hsv_to_rgb(y)
        return y - base + per_sample(bad, 2)
