"""Extractors without gradients: the weights of a linear head; scores of masked inputs are in ``masked``."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from .core import _CAM
from .masked import ISCAM, SSCAM, ScoreCAM

__all__ = ["CAM", "ISCAM", "SSCAM", "ScoreCAM"]

logger = logging.getLogger(__name__)


class CAM(_CAM):
    """CAM (Zhou 2016): the class's row of the linear layer after global average pooling.

    Args:
        fc_layer: that layer or its name; None takes the model's only ``nn.Linear``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        if isinstance(target_layer, list) and len(target_layer) > 1:
            raise ValueError(f"base CAM does not support multiple target layers, got {len(target_layer)}")
        super().__init__(model, target_layer, input_shape, **kwargs)
        try:
            weights = self.submodule_dict[self._resolve_fc(fc_layer)].weight.data
        except BaseException:
            self.remove_hooks()
            raise
        self._fc_weights: Tensor = weights.flatten(2).squeeze(2) if weights.ndim > 2 else weights  # type: ignore

    def _passed_on(self, output: Tensor) -> None:
        """Nothing else: where a ReLU in place follows (DenseNet), the linear layer's weights are for what it leaves."""

    def _resolve_fc(self, fc_layer: Any) -> str:
        if isinstance(fc_layer, str):
            return fc_layer
        if isinstance(fc_layer, nn.Module):
            return self._resolve_layer_name(fc_layer)
        if fc_layer is not None:
            raise TypeError(f"invalid argument type for `fc_layer`: {type(fc_layer).__name__}")
        linear = [name for name, module in self.submodule_dict.items() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError("unable to resolve `fc_layer` automatically, please specify its value.")
        if len(linear) > 1:
            raise ValueError(f"This CAM method does not support multiple fully connected layers, got {linear}.")
        logger.warning("no value was provided for `fc_layer`, thus set to '%s'.", linear[0])
        return linear[0]

    @torch.no_grad()
    def _get_weights(self, class_idx: int | list[int], *_: Any) -> list[Tensor]:  # type: ignore[override]
        return [self._fc_weights[[class_idx] if isinstance(class_idx, int) else class_idx]]
