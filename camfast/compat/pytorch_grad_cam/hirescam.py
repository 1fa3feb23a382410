"""HiResCAM, by camfast's engine."""

from __future__ import annotations

from typing import ClassVar

from ... import methods, ops
from ...methods.explainer import Explainer
from ...methods.rules import Rule
from .plain_cam import PositionCAM

__all__ = ["HiResCAM"]


class HiResCAM(PositionCAM):
    """:class:`camfast.HiResCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.HiResCAM
    rule: ClassVar[Rule | None] = staticmethod(ops.hires_cam)
