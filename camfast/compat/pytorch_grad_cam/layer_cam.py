"""LayerCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.weights import MapOp
from .plain_cam import PositionCAM

__all__ = ["LayerCAM"]


class LayerCAM(PositionCAM):
    """:class:`camfast.LayerCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.LayerCAM
    op: ClassVar[MapOp | None] = staticmethod(ops.layer_cam)
