"""ARCC: coherency, complexity and ROAD of heatmaps in one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .road import ROADCombined

__all__ = ["ARCC", "Coherency", "Complexity", "batch_pearson_coherency"]

_PERCENTILES = (20, 40, 60, 80)
_LEAST = 1e-8  # keeps what is divided by from 0


def batch_pearson_coherency(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of maps ``[N, H, W]``: ``[N]``, 0 where one of the two is constant."""
    a, b = (maps.reshape(len(maps), -1) - maps.reshape(len(maps), -1).mean(axis=1, keepdims=True) for maps in (A, B))
    return (a * b).sum(axis=1) / (np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)) + _LEAST)


class Complexity:
    """The mean of a heatmap's magnitude; less is better."""

    def __call__(self, grayscale_cams: np.ndarray) -> np.ndarray:
        return np.abs(grayscale_cams).mean(axis=(1, 2))


class Coherency:
    """How alike a heatmap is to that of the image times it, from 0 to 1: by correlation."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: np.ndarray,
        targets: Sequence[Callable[[Any], Any]],
        model: nn.Module,
        base_method: Any,
    ) -> np.ndarray:
        heats = torch.from_numpy(grayscale_cams).to(input_tensor.device)
        again = base_method(input_tensor * heats.unsqueeze(1), targets)
        return (batch_pearson_coherency(grayscale_cams, again) + 1) / 2


class ARCC:
    """The harmonic mean of coherency, one less complexity, and twice ROAD, cut off at 0 and 1."""

    def __init__(self, base_method: Any, road_percentiles: Sequence[float] = _PERCENTILES) -> None:
        self.complexity = Complexity()
        self.coherency = Coherency()
        self.road = ROADCombined(road_percentiles)
        self.base_method = base_method

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: np.ndarray,
        targets: Sequence[Callable[[Any], Any]],
        model: nn.Module,
    ) -> np.ndarray:
        """``[N]``, for images ``[N, C, H, W]`` and their heatmaps ``[N, H, W]`` by ``base_method``."""
        coherency = self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method)
        simplicity = 1 - self.complexity(grayscale_cams)
        road = np.clip(2 * self.road(input_tensor, grayscale_cams, targets, model), 0, 1)
        return 3 / (1 / (coherency + _LEAST) + 1 / (simplicity + _LEAST) + 1 / (road + _LEAST))
