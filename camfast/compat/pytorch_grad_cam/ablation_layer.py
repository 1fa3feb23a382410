"""Layers that stand in for the explained one and return its recorded output with a channel gone in each copy.

The engine needs none of them: they serve users' own kinds, detectors, and the strict mode, in which the value of an
ablated channel lies lower with each copy of a batch, as the original has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .strictness import is_strict
from .utils.svd_on_activations import get_2d_projection

__all__ = ["AblationLayer", "AblationLayerFasterRCNN", "AblationLayerVit"]

_DEPTH = 1e7  # below the least activation, where that is not 0
_DETECTOR_VALUE = -1000.0
_PYRAMID = ("0", "1", "2", "3", "pool")
_PYRAMID_CHANNELS = 256


class AblationLayer(nn.Module):
    """Activations ``[N, C, h, w]``. ``indices`` are the channels of the copies to come."""

    activations: Any
    indices: np.ndarray

    def __init__(self) -> None:
        super().__init__()

    def objectiveness_mask_from_svd(self, activations: np.ndarray, threshold: float = 0.01) -> np.ndarray:
        """Where an image's activations ``[C, h, w]`` have a first component, in size: bool ``[h, w]``."""
        size = np.abs(get_2d_projection(activations[None])[0])
        size = size - size.min()
        return size / size.max() > threshold

    def activations_to_be_ablated(self, activations: np.ndarray, ratio_channels_to_ablate: float = 1.0) -> np.ndarray:
        """Channels of ``[C, h, w]`` to ablate: all, or those most and least inside the mask, that share of them each."""
        channels = len(activations)
        if ratio_channels_to_ablate == 1.0:
            self.indices = np.arange(channels, dtype=np.int32)
            return self.indices
        size = np.abs(activations).reshape(channels, -1)
        size = size - size.min(axis=1, keepdims=True)
        size = size / size.max(axis=1, keepdims=True)
        inside = (size * self.objectiveness_mask_from_svd(activations).reshape(-1)).sum(axis=1) / size.sum(axis=1)
        order = np.argsort(inside.astype(np.float32)).astype(np.int32)
        count = int(channels * ratio_channels_to_ablate)
        self.indices = np.concatenate([order[::-1][:count], order[:count]])
        return self.indices

    def set_next_batch(self, input_batch_index: int, activations: Any, num_channels_to_ablate: int) -> None:
        """Takes copies of one image's activations, one a channel."""
        self.activations = _copies(activations, input_batch_index, num_channels_to_ablate)

    def __call__(self, x: Any) -> Any:
        _ablate(self.activations, self.indices)
        return self.activations


class AblationLayerVit(AblationLayer):
    """Activations with the channels last: tokens ``[N, T, C]``, or maps ``[N, h, w, C]``."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, x: Any) -> Any:
        _ablate(self.activations.transpose(1, -1), self.indices)
        return self.activations

    def set_next_batch(self, input_batch_index: int, activations: Any, num_channels_to_ablate: int) -> None:
        self.activations = _copies(activations, input_batch_index, num_channels_to_ablate)


class AblationLayerFasterRCNN(AblationLayer):
    """A feature pyramid of torchvision's detectors: five maps of 256 channels, counted one after another."""

    def __init__(self) -> None:
        super().__init__()

    def set_next_batch(
        self, input_batch_index: int, activations: Mapping[str, Tensor], num_channels_to_ablate: int
    ) -> None:
        self.activations = {
            key: _copies(level, input_batch_index, num_channels_to_ablate) for key, level in activations.items()
        }

    def __call__(self, x: Any) -> Any:
        for copy, channel in enumerate(self.indices[: len(self.activations["pool"])]):
            level, place = divmod(int(channel), _PYRAMID_CHANNELS)
            self.activations[_PYRAMID[level]][copy, place] = _DETECTOR_VALUE
        return self.activations


def _copies(activations: Tensor, index: int, count: int) -> Tensor:
    return activations[index : index + 1].repeat(count, *(1,) * (activations.ndim - 1))


def _ablate(copies: Tensor, channels: np.ndarray) -> None:
    """Channel ``channels[i]`` of copy ``i`` of ``[B, C, ...]``, in place."""
    least = copies.min()
    for copy in range(len(copies)):
        if is_strict():
            least = copies.min()
        copies[copy, int(channels[copy])] = (
            0 if least == 0 else torch.clamp(least - _DEPTH, min=torch.finfo(copies.dtype).min / 8)
        )
