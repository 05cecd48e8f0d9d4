"""Make parts of a waveform louder or softer."""

import math

from torch import Tensor

from viewaug._checks import check_count
from viewaug.perturbations.base import Needs, Perturbation, Raw, coarse, decibels, smooth


class Gain(Perturbation):
    """Multiplies each channel by a smooth envelope between 1/4 and 4, which is 12 dB either way.

    Its random twin is a random gain, half of that as a rule, that changes from cell to cell.

    Args:
        knots: cells of equal length in which the gain is free; it is interpolated in between.

    Raises:
        ValueError: if `knots` is not positive.
    """

    dims = (1,)
    unitless = True

    def __init__(self, knots: int = 16) -> None:
        super().__init__()
        check_count("knots", knots)
        self.knots = knots

    def needs(self, channels: int, dims: int) -> Needs:
        return Needs(maps=channels)

    def twin(self, noise: Raw) -> Raw:
        return noise._replace(maps=0.5 * coarse(noise.maps, self.knots))

    def residual(self, x: Tensor, raw: Raw) -> Tensor:
        return x * self._logarithm(raw).expm1()

    def magnitudes(self, x: Tensor, raw: Raw) -> dict[str, Tensor]:
        gain = decibels(self._logarithm(raw))
        span = (gain.amax(2) - gain.amin(2)).mean(1)
        return {"gain [dB]": gain.flatten(1).mean(1), "loudest less softest [dB]": span}

    def _logarithm(self, raw: Raw) -> Tensor:
        """Return that of the envelope."""
        return self.strength * math.log(4) * smooth(raw.maps, self.knots).tanh()
