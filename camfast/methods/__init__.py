"""The methods: a class each, and beside it a function of one call.

A method is found by its name: ``score.py`` holds Score-CAM and its kin, ``gradient.py`` those whose weights are gradients.
"""

from __future__ import annotations

from .ablation import AblationCAM, ablation_cam
from .cam import CAM, cam
from .composite import FinerCAM, RefineCAM, finer_cam, refine_cam
from .custom import method
from .eigen import (
    FEM,
    KPCACAM,
    EigenCAM,
    EigenGradCAM,
    SegEigenCAM,
    eigen_cam,
    eigen_grad_cam,
    fem,
    kpca_cam,
    seg_eigen_cam,
)
from .explainer import Explainer
from .explanation import Explanation
from .factorization import DeepFeatureFactorization, Factorization, deep_feature_factorization
from .fullgrad import FullGrad, full_grad
from .gradient import (
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from .guided import GuidedBackprop, GuidedExplanation, GuidedGradCAM, guided_backprop, guided_grad_cam
from .layer_explainer import LayerExplainer
from .layer_map import LayerMap, LayerMaps, SummedMap
from .legrad import LeGrad, legrad
from .random import RandomCAM, random_cam
from .recipro import ReciproCAM, recipro_cam
from .registry import METHODS, register
from .score import ISCAM, SSCAM, ScoreCAM, is_cam, score_cam, ss_cam
from .sess import SESS, sess
from .shapley import ShapleyCAM, shapley_cam
from .smooth import SmoothGradCAMPlusPlus, smooth_grad_cam_plus_plus

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "KPCACAM",
    "METHODS",
    "SESS",
    "SSCAM",
    "AblationCAM",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "Explanation",
    "Factorization",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedExplanation",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LayerExplainer",
    "LayerMap",
    "LayerMaps",
    "LeGrad",
    "RandomCAM",
    "ReciproCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "SmoothGradCAMPlusPlus",
    "SummedMap",
    "XGradCAM",
    "ablation_cam",
    "cam",
    "deep_feature_factorization",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "finer_cam",
    "full_grad",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "legrad",
    "method",
    "random_cam",
    "recipro_cam",
    "refine_cam",
    "register",
    "score_cam",
    "seg_eigen_cam",
    "sess",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
    "xgrad_cam",
]
