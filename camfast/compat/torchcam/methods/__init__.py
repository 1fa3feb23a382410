"""Extractors: record a pass by hooks, then give maps for a class of its scores."""

from __future__ import annotations

from .activation import CAM, ISCAM, SSCAM, ScoreCAM
from .core import OutputTarget
from .gradient import FinerCAM, GradCAM, GradCAMpp, LayerCAM, LeGrad, RefineCAM, SmoothGradCAMpp, XGradCAM

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "LeGrad",
    "OutputTarget",
    "RefineCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]
