"""GradCAMElementWise, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.weights import MapOp
from .plain_cam import PositionCAM

__all__ = ["GradCAMElementWise"]


class GradCAMElementWise(PositionCAM):
    """:class:`camfast.GradCAMElementWise` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.GradCAMElementWise
    op: ClassVar[MapOp | None] = staticmethod(ops.grad_cam_elementwise)
