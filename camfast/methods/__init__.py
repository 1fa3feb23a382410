"""The methods, a class each; :mod:`camfast.methods.functional` has a function each."""

from __future__ import annotations

from .base import Explainer
from .eigen import FEM, EigenCAM, EigenGradCAM, KPCACAM, SegEigenCAM
from .gradient import GradCAM, GradCAMElementWise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .projection import CAM

__all__ = [
    "CAM",
    "FEM",
    "KPCACAM",
    "METHODS",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "SegEigenCAM",
    "XGradCAM",
]

METHODS: dict[str, type[Explainer]] = {
    method.name: method
    for method in (
        CAM,
        GradCAM,
        GradCAMPlusPlus,
        XGradCAM,
        HiResCAM,
        LayerCAM,
        GradCAMElementWise,
        EigenCAM,
        EigenGradCAM,
        SegEigenCAM,
        KPCACAM,
        FEM,
    )
}
"""Every method, by the name of its function and its op."""
