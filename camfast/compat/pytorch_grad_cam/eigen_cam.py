"""EigenCAM, by camfast's op."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ... import methods
from .plain_cam import ProjectionCAM
from .utils.svd_on_activations import get_2d_projection

__all__ = ["EigenCAM"]


class EigenCAM(ProjectionCAM):
    """Activations on their first principal component; its sign is described in ``utils.svd_on_activations``."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.EigenCAM

    needs_gradients: ClassVar[bool] = False

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        return get_2d_projection(activations)
