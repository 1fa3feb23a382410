"""EigenGradCAM, by camfast's op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods
from ...methods.base import Explainer
from .base_cam import BaseCAM
from .utils.svd_on_activations import get_2d_projection

__all__ = ["EigenGradCAM"]


class EigenGradCAM(BaseCAM):
    """Gradient times activation on its first principal component; its sign is described in ``utils.svd_on_activations``."""

    engine: ClassVar[type[Explainer] | None] = methods.EigenGradCAM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=True)

    def get_cam_image(  # type: ignore[override]
        self,
        input_tensor: Tensor,
        target_layer: Any,
        target_category: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool,
    ) -> np.ndarray:
        return get_2d_projection(grads * activations)
