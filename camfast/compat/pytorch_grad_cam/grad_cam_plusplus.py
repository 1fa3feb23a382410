"""GradCAMPlusPlus, by camfast's engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods, ops
from ...methods.base import Explainer
from ...methods.rules import Rule
from .base_cam import BaseCAM

__all__ = ["GradCAMPlusPlus"]


class GradCAMPlusPlus(BaseCAM):
    """:class:`camfast.GradCAMPlusPlus` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.GradCAMPlusPlus
    rule: ClassVar[Rule | None] = staticmethod(ops.grad_cam_plus_plus)

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layers: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return super().get_cam_weights(input_tensor, target_layers, target_category, activations, grads)
