"""ScoreCAM, by camfast's engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ... import methods
from ...methods.base import Explainer
from .base_cam import BaseCAM

__all__ = ["ScoreCAM"]


class ScoreCAM(BaseCAM):
    """:class:`camfast.ScoreCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[Explainer] | None] = methods.ScoreCAM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)

    def engine_options(self) -> dict[str, Any]:
        return {"batch_size": getattr(self, "batch_size", None)}
