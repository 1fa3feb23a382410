"""Class-activation maps at the price of a prediction.

result = camfast.grad_cam(model, images)          # one call
explainer = camfast.GradCAM(model)                # reusable
result = explainer(images, targets=camfast.TopK(5))
result.heatmap, result.scores, result.overlay()
"""

from __future__ import annotations

from . import ops, reference
from .explanation import Explanation
from .feature_gradients import Gradients
from .features import FeatureMaps
from .grids import grid
from .methods import (
    CAM,
    FEM,
    ISCAM,
    KPCACAM,
    METHODS,
    SSCAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    Explainer,
    FinerCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from .methods.functional import (
    ablation_cam,
    cam,
    eigen_cam,
    eigen_grad_cam,
    fem,
    finer_cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    is_cam,
    kpca_cam,
    layer_cam,
    random_cam,
    recipro_cam,
    refine_cam,
    score_cam,
    seg_eigen_cam,
    shapley_cam,
    smooth_grad_cam_plus_plus,
    ss_cam,
    xgrad_cam,
)
from .targets import TopK
from .version import __version__

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
    "Explanation",
    "FeatureMaps",
    "FinerCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "Gradients",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "ReciproCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "SmoothGradCAMPlusPlus",
    "TopK",
    "XGradCAM",
    "__version__",
    "ablation_cam",
    "cam",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "finer_cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "grid",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "ops",
    "random_cam",
    "recipro_cam",
    "reference",
    "refine_cam",
    "score_cam",
    "seg_eigen_cam",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
    "xgrad_cam",
]
