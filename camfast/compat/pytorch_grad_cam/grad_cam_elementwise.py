"""GradCAMElementWise, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.explainer import Explainer
from ...methods.rules import Rule
from .plain_cam import PositionCAM

__all__ = ["GradCAMElementWise"]


class GradCAMElementWise(PositionCAM):
    """:class:`camfast.GradCAMElementWise` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.GradCAMElementWise
    rule: ClassVar[Rule | None] = staticmethod(ops.grad_cam_elementwise)
