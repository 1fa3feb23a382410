"""KPCA_CAM, by camfast's op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods
from .plain_cam import ProjectionCAM
from .utils.svd_on_activations import get_2d_projection_kernel

__all__ = ["KPCA_CAM"]


class KPCA_CAM(ProjectionCAM):
    """Activations on the first component of a kernel PCA; its sign is described in ``utils.svd_on_activations``."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.KPCACAM
    needs_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.kernel = kernel
        self.gamma = gamma

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        return get_2d_projection_kernel(activations, self.kernel, self.gamma)

    def engine_options(self) -> dict[str, Any]:
        return {"gamma": self.gamma}

    def engine_fits(self, eigen_smooth: bool) -> bool:
        return self.kernel == "sigmoid" and super().engine_fits(eigen_smooth)
