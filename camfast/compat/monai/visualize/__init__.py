"""monai.visualize: class-activation maps."""

from __future__ import annotations

from typing import Any

from ... import refused
from . import class_activation_maps, visualizer
from .class_activation_maps import CAM, GradCAM, GradCAMpp, ModelWithHooks, default_normalizer
from .visualizer import default_upsampler

__all__ = [
    "CAM",
    "GradCAM",
    "GradCAMpp",
    "ModelWithHooks",
    "class_activation_maps",
    "default_normalizer",
    "default_upsampler",
    "visualizer",
]

_ABSENT = frozenset(
    """
    GuidedBackpropGrad GuidedBackpropSmoothGrad OcclusionSensitivity SmoothGrad VanillaGrad add_animated_gif blend_images
    gradient_based img2tensorboard make_animated_gif_summary matshow3d occlusion_sensitivity plot_2d_or_3d_image utils
    """.split()  # noqa: SIM905
)
"""What else monai.visualize has: saliency by gradients and by occlusion, and pictures."""


def __getattr__(name: str) -> Any:
    raise refused("monai.visualize", name, _ABSENT, __all__)
