"""RandomCAM: weights from numpy's global generator, as the original draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .plain_cam import PlainCAM

__all__ = ["RandomCAM"]


class RandomCAM(PlainCAM):
    """Uniform random weights from -1 to 1, a baseline; the same for the same ``np.random.seed``."""

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return np.random.uniform(-1, 1, size=(grads.shape[0], grads.shape[1]))
