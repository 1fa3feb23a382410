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
    METHODS,
    Explainer,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from .methods.functional import (
    cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from .targets import TopK
from .version import __version__

__all__ = [
    "CAM",
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
    "__version__",
    "cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "ops",
    "reference",
    "xgrad_cam",
]
