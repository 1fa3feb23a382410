"""ShapleyCAM, by camfast's engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods
from .base_cam import BaseCAM

__all__ = ["ShapleyCAM"]


class ShapleyCAM(BaseCAM):
    """:class:`camfast.ShapleyCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.ShapleyCAM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, compute_input_gradient=True, detach=False)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return self.engine_weights(input_tensor, target_layer, target_category)
