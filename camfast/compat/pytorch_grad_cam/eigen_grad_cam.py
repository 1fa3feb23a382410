"""EigenGradCAM, by camfast's op."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ... import methods
from .plain_cam import ProjectionCAM
from .utils.svd_on_activations import get_2d_projection

__all__ = ["EigenGradCAM"]


class EigenGradCAM(ProjectionCAM):
    """Gradient times activation on its first principal component; its sign is described in ``utils.svd_on_activations``."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.EigenGradCAM

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        return get_2d_projection(grads * activations)
