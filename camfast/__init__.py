"""Class-activation maps at the price of a prediction.

result = camfast.grad_cam(model, images)          # one call
explainer = camfast.GradCAM(model)                # reusable
result = explainer(images, targets=camfast.TopK(5))
result.heatmap, result.scores, result.overlay()
"""

from __future__ import annotations

from . import ops, reference
from .explanation import Explanation
from .methods import (
    CAM,
    FEM,
    KPCACAM,
    METHODS,
    EigenCAM,
    EigenGradCAM,
    Explainer,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    SegEigenCAM,
    XGradCAM,
)
from .methods.functional import (
    cam,
    eigen_cam,
    eigen_grad_cam,
    fem,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    kpca_cam,
    layer_cam,
    seg_eigen_cam,
    xgrad_cam,
)
from .targets import TopK
from .version import __version__

__all__ = [
    "CAM",
    "FEM",
    "KPCACAM",
    "METHODS",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "Explanation",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "SegEigenCAM",
    "TopK",
    "XGradCAM",
    "__version__",
    "cam",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "kpca_cam",
    "layer_cam",
    "ops",
    "reference",
    "seg_eigen_cam",
    "xgrad_cam",
]
