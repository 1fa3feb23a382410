"""What the methods that weigh each position by itself have in common: pytorch-grad-cam's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .base_cam import BaseCAM

__all__ = ["PositionCAM"]


class PositionCAM(BaseCAM):
    """A method whose weights, by ``rule``, are ``[N, C, *map]``."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_image(  # type: ignore[override]
        self,
        input_tensor: Tensor,
        target_layer: Any,
        target_category: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool,
    ) -> np.ndarray:
        return super().get_cam_image(input_tensor, target_layer, target_category, activations, grads, eigen_smooth)
