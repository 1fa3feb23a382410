"""HiResCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.weights import MapOp
from .plain_cam import PositionCAM

__all__ = ["HiResCAM"]


class HiResCAM(PositionCAM):
    """:class:`camfast.HiResCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.HiResCAM
    op: ClassVar[MapOp | None] = staticmethod(ops.hires_cam)
