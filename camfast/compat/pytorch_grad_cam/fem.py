"""FEM, by camfast's op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import methods, ops
from ...methods.eigen import fem_weights
from .plain_cam import ProjectionCAM

__all__ = ["FEM"]


class FEM(ProjectionCAM):
    """:class:`camfast.FEM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.FEM
    needs_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.k = k

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        A = torch.as_tensor(activations)
        return ops.cam(A, fem_weights(A, self.k), None, False).float().numpy()

    def engine_options(self) -> dict[str, Any]:
        return {"k": self.k}
