"""RefineCAM: the product of a method's maps of several layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ... import methods
from ...methods.gradient import GradientExplainer
from .base_cam import as_it_is
from .grad_cam_plusplus import GradCAMPlusPlus
from .strictness import is_strict
from .utils.image import scale_cam_image

__all__ = ["RefineCAM"]


class RefineCAM:
    """``base_method`` for each layer; ``kwargs`` are its constructor's. A gradient method of the engine takes one pass.

    In strict mode ``eigen_smooth`` acts as the base method's ``aug_smooth``, as it does in the original.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Any = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        self.base_cam_per_layer = [base_method(model, [layer], reshape_transform, **kwargs) for layer in target_layers]

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> np.ndarray:
        """Maps ``[N, H, W]`` from 0 to 1."""
        first = self.base_cam_per_layer[0]
        if all(_in_one_pass(cam, type(first), input_tensor, eigen_smooth) for cam in self.base_cam_per_layer):
            layers = [layer for cam in self.base_cam_per_layer for layer in cam.target_layers]
            explainer = methods.RefineCAM(
                first.model,
                layers,
                base_method=first.engine,
                reshape=first.reshape_transform or as_it_is,
                eigen_smooth=eigen_smooth and "eigen_smooth" in first.engine.smoothing,
            )
            return explainer(input_tensor.to(first.device), targets).heatmap.float().cpu().numpy()
        smoothing = "aug_smooth" if is_strict() else "eigen_smooth"
        maps = [cam(input_tensor, targets, **{smoothing: eigen_smooth}) for cam in self.base_cam_per_layer]
        return scale_cam_image(np.prod(maps, axis=0))


def _in_one_pass(cam: Any, kind: type, input_tensor: Tensor, eigen_smooth: bool) -> bool:
    gradients = type(cam) is kind and issubclass(getattr(kind, "engine", None) or object, GradientExplainer)
    return gradients and not cam.engine_options() and cam.runs_in_engine(input_tensor, eigen_smooth)
