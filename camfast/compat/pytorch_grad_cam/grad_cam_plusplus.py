"""GradCAMPlusPlus, by camfast's engine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ... import methods, ops
from ...methods.weights import MapOp
from .base_cam import weights_by
from .plain_cam import PlainCAM

__all__ = ["GradCAMPlusPlus"]


class GradCAMPlusPlus(PlainCAM):
    """:class:`camfast.GradCAMPlusPlus` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.GradCAMPlusPlus
    op: ClassVar[MapOp | None] = staticmethod(ops.grad_cam_plus_plus)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layers: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return weights_by(ops.grad_cam_plus_plus, activations, grads)  # also without an object, as in the original
