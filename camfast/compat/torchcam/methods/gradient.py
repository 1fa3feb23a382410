"""torchcam's module path for the methods of gradients, which stand in files of their own here."""

from __future__ import annotations

from ._gradients import GradCAM, GradCAMpp, LayerCAM, SmoothGradCAMpp, XGradCAM
from ._gradients import _GradCAM as _GradCAM
from .legrad import LeGrad
from .wrappers import FinerCAM, RefineCAM
from .wrappers import _CAMWrapper as _CAMWrapper

__all__ = ["FinerCAM", "GradCAM", "GradCAMpp", "LayerCAM", "LeGrad", "RefineCAM", "SmoothGradCAMpp", "XGradCAM"]
