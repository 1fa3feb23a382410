"""XGradCAM, by camfast's engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods, ops
from ...methods.base import Explainer
from ...methods.rules import Rule
from .base_cam import BaseCAM

__all__ = ["XGradCAM"]


class XGradCAM(BaseCAM):
    """:class:`camfast.XGradCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.XGradCAM
    rule: ClassVar[Rule | None] = staticmethod(ops.xgrad_cam)

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
        return super().get_cam_weights(input_tensor, target_layer, target_category, activations, grads)
