"""How a score changes when an image is multiplied by its heatmap."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .perturbation_confidence import PerturbationConfidenceMetric

__all__ = [
    "CamMultImageConfidenceChange",
    "DropInConfidence",
    "IncreaseInConfidence",
    "multiply_tensor_with_cam",
]


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """An image ``[C, H, W]`` times its heatmap ``[H, W]``."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The score of the image times its heatmap, less that of the image."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """By how much the score falls; 0 where it rises."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.maximum(-super().__call__(*args, **kwargs), 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 where the score rises, else 0."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.float32(super().__call__(*args, **kwargs) > 0)
