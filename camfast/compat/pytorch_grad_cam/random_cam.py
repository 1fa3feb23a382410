"""RandomCAM: weights from numpy's global generator, as the original draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .base_cam import BaseCAM

__all__ = ["RandomCAM"]


class RandomCAM(BaseCAM):
    """Uniform random weights from -1 to 1, a baseline; the same for the same ``np.random.seed``."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return np.random.uniform(-1, 1, size=(grads.shape[0], grads.shape[1]))
