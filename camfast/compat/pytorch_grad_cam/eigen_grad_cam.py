"""EigenGradCAM, by camfast's op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .base_cam import BaseCAM
from .utils.svd_on_activations import get_2d_projection

__all__ = ["EigenGradCAM"]


class EigenGradCAM(BaseCAM):
    """The first principal component of activations; its sign is described in ``utils.svd_on_activations``."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=True)

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: Any,
        targets: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        return get_2d_projection(grads * activations)
