"""Class-activation maps at the price of a prediction.

result = camfast.grad_cam(model, images)          # one call
explainer = camfast.GradCAM(model)                # reusable
result = explainer(images, targets=camfast.TopK(5))
result.heatmap, result.scores, result.overlay()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .after_torch import after_torch
from .version import __version__

if TYPE_CHECKING:
    from . import callbacks, colormaps, compat, losses, metrics, ops, reference, targets
    from .dataset import explain_dataset, read_maps
    from .detection import DetectionExplainer, Detections, explain_detections
    from .features import FeatureMaps, Gradients
    from .methods import (
        FEM,
        ISCAM,
        KPCACAM,
        METHODS,
        SSCAM,
        AblationCAM,
        DeepFeatureFactorization,
        EigenCAM,
        EigenGradCAM,
        Explainer,
        Explanation,
        Factorization,
        FinerCAM,
        FullGrad,
        GradCAM,
        GradCAMElementWise,
        GradCAMPlusPlus,
        GuidedBackprop,
        GuidedExplanation,
        GuidedGradCAM,
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
        ablation_cam,
        deep_feature_factorization,
        eigen_cam,
        eigen_grad_cam,
        fem,
        finer_cam,
        full_grad,
        grad_cam,
        grad_cam_elementwise,
        grad_cam_plus_plus,
        guided_backprop,
        guided_grad_cam,
        hires_cam,
        is_cam,
        kpca_cam,
        layer_cam,
        method,
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

    # Not through the package: these functions have the names of their modules, which mypy may see there instead.
    from .methods.cam import CAM, cam
    from .methods.legrad import LeGrad, legrad
    from .methods.sess import SESS, sess
    from .metrics import compare
    from .pictures.grids import grid
    from .pictures.text import legend
    from .reports import report
    from .shipped import export, with_heatmap
    from .targets import TopK
    from .video.live.serve import serve
    from .video.realtime import Realtime, RealtimeResult

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
    "DetectionExplainer",
    "Detections",
    "EigenCAM",
    "EigenGradCAM",
    "Explainer",
    "Explanation",
    "Factorization",
    "FeatureMaps",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "Gradients",
    "GuidedBackprop",
    "GuidedExplanation",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "RandomCAM",
    "Realtime",
    "RealtimeResult",
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
    "callbacks",
    "cam",
    "colormaps",
    "compare",
    "compat",
    "deep_feature_factorization",
    "eigen_cam",
    "eigen_grad_cam",
    "explain_dataset",
    "explain_detections",
    "export",
    "fem",
    "finer_cam",
    "full_grad",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "grid",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "legend",
    "legrad",
    "losses",
    "method",
    "metrics",
    "ops",
    "random_cam",
    "read_maps",
    "recipro_cam",
    "reference",
    "refine_cam",
    "report",
    "score_cam",
    "seg_eigen_cam",
    "serve",
    "sess",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
    "targets",
    "with_heatmap",
    "xgrad_cam",
]

# Names are imported when they are asked for: those of the methods, of these modules, and modules themselves.
_ELSEWHERE = {
    "DetectionExplainer": ".detection",
    "Detections": ".detection",
    "FeatureMaps": ".features",
    "Gradients": ".features",
    "Realtime": ".video.realtime",
    "RealtimeResult": ".video.realtime",
    "TopK": ".targets",
    "compare": ".metrics",
    "explain_dataset": ".dataset",
    "explain_detections": ".detection",
    "export": ".shipped",
    "grid": ".pictures.grids",
    "legend": ".pictures.text",
    "read_maps": ".dataset",
    "report": ".reports",
    "serve": ".video.live.serve",
    "with_heatmap": ".shipped",
}
_MODULES = ("callbacks", "colormaps", "compat", "losses", "metrics", "ops", "reference", "targets")
_PACKAGES = ("dataset", "detection", "features", "methods", "reports", "shipped", "video", "zoo")

if not TYPE_CHECKING:  # type checkers would take every name for one of camfast's

    def __getattr__(name):
        if name in __all__ and name not in _MODULES:
            value = getattr(importlib.import_module(_ELSEWHERE.get(name, ".methods"), __name__), name)
        elif name in _MODULES or name in _PACKAGES:
            value = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


after_torch(lambda: importlib.import_module(".ops", __name__))  # torch.ops.camfast.*
