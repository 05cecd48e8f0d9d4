"""Learned augmentation for self-supervised learning."""

import importlib
from typing import Any

from viewaug.adversary import AdversarialAugmentation, reverse_gradient
from viewaug.budget import distortion, fit_budget, project_to_budget, rescale_to_budget
from viewaug.budget_controller import BudgetController
from viewaug.checkpoints import load, save
from viewaug.joint_optimizer import JointOptimizer
from viewaug.own_loss import frozen_call
from viewaug.samples import SampleTransform
from viewaug.viewmaker import Viewmaker

__version__ = "0.2.0"
__all__ = [
    "AdversarialAugmentation",
    "BudgetController",
    "JointOptimizer",
    "SampleTransform",
    "Viewmaker",
    "distortion",
    "fit_budget",
    "frozen_call",
    "load",
    "project_to_budget",
    "rescale_to_budget",
    "reverse_gradient",
    "save",
]


def __getattr__(name: str) -> Any:
    """Load what needs an extra on first use."""
    if name == "compare":
        return importlib.import_module("viewaug.comparison").compare
    if name == "explain":
        return importlib.import_module("viewaug.explanation").explain
    if name == "distil":
        return importlib.import_module("viewaug.distillation").distil
    if name in (
        "comparison",
        "diagnosis",
        "distillation",
        "explanation",
        "hub",
        "metrics",
        "perturbations",
        "plots",
        "probes",
        "testing",
    ):
        return importlib.import_module(f"viewaug.{name}")
    raise AttributeError(f"module 'viewaug' has no attribute {name!r}")
