"""FEM, by camfast's op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import methods, ops
from ...methods.base import Explainer
from ...methods.eigen import fem_weights
from .base_cam import BaseCAM

__all__ = ["FEM"]


class FEM(BaseCAM):
    """:class:`camfast.FEM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.FEM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.k = k

    def get_cam_image(  # type: ignore[override]
        self,
        input_tensor: Tensor,
        target_layer: Any,
        target_category: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool,
    ) -> np.ndarray:
        A = torch.as_tensor(activations)
        return ops.cam(A, fem_weights(A, self.k), None, False).float().numpy()

    def engine_options(self) -> dict[str, Any]:
        return {"k": self.k}
