"""What most methods have in common: pytorch-grad-cam's parameters, and the one step that each of them fills in.

PlainCAM         the constructor of three parameters
  ChannelCAM     weights [N, C]
  PositionCAM    weights [N, C, *map]
  ProjectionCAM  a map that is no weighted sum: of activations and gradients, by :meth:`ProjectionCAM.project`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from .base_cam import BaseCAM

__all__ = ["ChannelCAM", "PlainCAM", "PositionCAM", "ProjectionCAM"]


class PlainCAM(BaseCAM):
    """A method that is made of a model and its layers."""

    needs_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=self.needs_gradients)


class ChannelCAM(PlainCAM):
    """A method whose weights, by ``rule``, are ``[N, C]``."""

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return super().get_cam_weights(input_tensor, target_layer, target_category, activations, grads)


class PositionCAM(PlainCAM):
    """A method whose weights, by ``rule``, are ``[N, C, *map]``."""

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


class ProjectionCAM(PlainCAM):
    """A method whose map is :meth:`project`."""

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        """The raw map ``[N, *map]`` of activations and gradients ``[N, C, *map]``."""
        raise NotImplementedError

    def get_cam_image(  # type: ignore[override]
        self,
        input_tensor: Tensor,
        target_layer: Any,
        target_category: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool,
    ) -> np.ndarray:
        return self.project(activations, grads)
