"""XGradCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.weights import MapOp
from .plain_cam import ChannelCAM

__all__ = ["XGradCAM"]


class XGradCAM(ChannelCAM):
    """:class:`camfast.XGradCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.XGradCAM
    op: ClassVar[MapOp | None] = staticmethod(ops.xgrad_cam)
