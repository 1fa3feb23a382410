"""The methods, a class each; :mod:`camfast.methods.functional` has a function each."""

from __future__ import annotations

from .base import Explainer
from .composite import FinerCAM, RefineCAM
from .eigen import FEM, KPCACAM, EigenCAM, EigenGradCAM, SegEigenCAM
from .fullgrad import FullGrad
from .gradient import GradCAM, GradCAMElementWise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .guided import GuidedBackprop, GuidedGradCAM
from .masking import ISCAM, SSCAM, ScoreCAM
from .perturbation import AblationCAM, ReciproCAM
from .projection import CAM
from .smooth import RandomCAM, ShapleyCAM, SmoothGradCAMPlusPlus

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "METHODS",
    "SSCAM",
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "ReciproCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "SmoothGradCAMPlusPlus",
    "XGradCAM",
]

METHODS: dict[str, type[Explainer]] = {
    method.name: method
    for method in (
        CAM,
        GradCAM,
        GradCAMPlusPlus,
        SmoothGradCAMPlusPlus,
        XGradCAM,
        HiResCAM,
        LayerCAM,
        GradCAMElementWise,
        EigenCAM,
        EigenGradCAM,
        SegEigenCAM,
        KPCACAM,
        FEM,
        ShapleyCAM,
        FinerCAM,
        RefineCAM,
        AblationCAM,
        ScoreCAM,
        SSCAM,
        ISCAM,
        ReciproCAM,
        FullGrad,
        GuidedBackprop,
        GuidedGradCAM,
        RandomCAM,
    )
}
"""Every method, by the name of its function and its op."""
