"""pytorch-grad-cam 1.5.7's interface over camfast's engine: change the import line, keep the script.

``strict = True`` (or the environment variable ``CAMFAST_COMPAT_STRICT=1``) gives principal components LAPACK's sign, and
takes layers in the order of execution, as the original does.
"""

from __future__ import annotations

from .activations_and_gradients import ActivationsAndGradients
from .base_cam import BaseCAM
from .eigen_cam import EigenCAM
from .eigen_grad_cam import EigenGradCAM
from .grad_cam import GradCAM
from .grad_cam_elementwise import GradCAMElementWise
from .grad_cam_plusplus import GradCAMPlusPlus
from .hirescam import HiResCAM
from .kpca_cam import KPCA_CAM
from .layer_cam import LayerCAM
from .score_cam import ScoreCAM
from .seg_eigen_cam import SegEigenCAM
from .shapley_cam import ShapleyCAM
from .utils import model_targets, reshape_transforms
from .xgrad_cam import XGradCAM

__all__ = [
    "KPCA_CAM",
    "ActivationsAndGradients",
    "BaseCAM",
    "EigenCAM",
    "EigenGradCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
    "model_targets",
    "reshape_transforms",
]

strict: bool | None = None
"""Whether to follow the original in the two points above; None leaves it to the environment."""
