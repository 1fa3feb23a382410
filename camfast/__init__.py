"""Class-activation maps at the price of a prediction."""

from __future__ import annotations

from . import ops, reference
from .explanation import Explanation
from .methods import (
    METHODS,
    Explainer,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from .targets import TopK

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "TopK",
    "XGradCAM",
    "grad_cam",
    "ops",
    "reference",
]


def grad_cam(model, images, targets=None, layers=None, **options):
    return GradCAM(model, layers)(images, targets)
