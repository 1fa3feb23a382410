"""GradCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.explainer import Explainer
from ...methods.rules import Rule
from .plain_cam import ChannelCAM

__all__ = ["GradCAM"]


class GradCAM(ChannelCAM):
    """:class:`camfast.GradCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.GradCAM
    rule: ClassVar[Rule | None] = staticmethod(ops.grad_cam)
