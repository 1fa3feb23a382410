"""GradCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.weights import MapOp
from .plain_cam import ChannelCAM

__all__ = ["GradCAM"]


class GradCAM(ChannelCAM):
    """:class:`camfast.GradCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.GradCAM
    op: ClassVar[MapOp | None] = staticmethod(ops.grad_cam)
