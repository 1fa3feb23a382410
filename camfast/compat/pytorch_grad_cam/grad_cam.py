"""GradCAM, by camfast's engine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ... import methods, ops
from ...methods.weights import MapOp
from .base_cam import weights_by
from .plain_cam import ChannelCAM

__all__ = ["GradCAM"]


class GradCAM(ChannelCAM):
    """:class:`camfast.GradCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.GradCAM
    op: ClassVar[MapOp | None] = staticmethod(ops.grad_cam)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        return weights_by(ops.grad_cam, activations, grads)  # also without an object, as in the original
