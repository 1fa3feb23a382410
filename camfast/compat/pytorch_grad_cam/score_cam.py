"""ScoreCAM, by camfast's engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import methods
from ...methods.chosen import Chosen
from ...model.inputs import Inputs
from ...model.untouched import quiet
from .base_cam import BaseCAM

__all__ = ["ScoreCAM"]


class ScoreCAM(BaseCAM):
    """:class:`camfast.ScoreCAM` with pytorch-grad-cam's interface."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.ScoreCAM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, targets: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        chosen = Chosen(list(targets), input_tensor.new_zeros(len(input_tensor), 1))
        explainer = methods.ScoreCAM(self.model, list(self.target_layers), **self.engine_options())
        with quiet(self.model):
            A = torch.as_tensor(activations).to(input_tensor.device)
            return explainer.weights(A, chosen, Inputs.of(input_tensor)).float().cpu().numpy()

    def engine_options(self) -> dict[str, Any]:
        return {"batch_size": getattr(self, "batch_size", None), "progress": True}
