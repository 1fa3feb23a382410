"""LayerCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.explainer import Explainer
from ...methods.rules import Rule
from .plain_cam import PositionCAM

__all__ = ["LayerCAM"]


class LayerCAM(PositionCAM):
    """:class:`camfast.LayerCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.LayerCAM
    rule: ClassVar[Rule | None] = staticmethod(ops.layer_cam)
