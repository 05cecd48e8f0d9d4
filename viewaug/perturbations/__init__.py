"""What a generator's raw output does to an input. One file a perturbation; all of them share one L1 budget."""

from viewaug.perturbations.additive import Additive
from viewaug.perturbations.base import Perturbation
from viewaug.perturbations.spectral import Spectral

PERTURBATIONS: dict[str, type[Perturbation]] = {"additive": Additive, "spectral": Spectral}

__all__ = ["PERTURBATIONS", "Additive", "Perturbation", "Spectral"]
