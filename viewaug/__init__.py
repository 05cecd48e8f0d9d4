"""Learned augmentation for self-supervised learning."""

from viewaug.adversary import AdversarialAugmentation, JointOptimizer, reverse_gradient
from viewaug.budget import distortion, fit_budget, project_to_budget, rescale_to_budget
from viewaug.checkpoints import load, save
from viewaug.viewmaker import Viewmaker

__version__ = "0.1.0"
__all__ = [
    "AdversarialAugmentation",
    "JointOptimizer",
    "Viewmaker",
    "distortion",
    "fit_budget",
    "load",
    "project_to_budget",
    "rescale_to_budget",
    "reverse_gradient",
    "save",
]
