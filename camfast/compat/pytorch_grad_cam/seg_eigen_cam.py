"""SegEigenCAM, by camfast's op."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ... import methods
from .plain_cam import ProjectionCAM
from .utils.svd_on_activations import get_2d_projection_with_sign_correction

__all__ = ["SegEigenCAM"]


class SegEigenCAM(ProjectionCAM):
    """Absolute gradient times activation on its first principal component.

    Its sign is described in ``utils.svd_on_activations``.
    """

    engine: ClassVar[type[methods.Explainer] | None] = methods.SegEigenCAM

    def project(self, activations: Any, grads: Any) -> np.ndarray:
        return get_2d_projection_with_sign_correction(np.abs(grads) * activations)
