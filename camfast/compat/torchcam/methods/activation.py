"""Extractors without gradients: the weights of a linear head, or scores of masked inputs."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....methods import ISCAM as _ISCAM
from ....methods import SSCAM as _SSCAM
from ....methods import ScoreCAM as _ScoreCAM
from .core import _CAM

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
        weights = self.submodule_dict[self._resolve_fc(fc_layer)].weight.data
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
    def _get_weights(self, class_idx: int | list[int], *_: Any, **kwargs: Any) -> list[Tensor]:
        return [self._fc_weights[[class_idx] if isinstance(class_idx, int) else class_idx]]


class ScoreCAM(_CAM):
    """Score-CAM (Wang 2020): scores of the input masked by each channel.

    Args:
        batch_size: masked inputs scored at once.
    """

    _engine: ClassVar[type[_ScoreCAM]] = _ISCAM  # of one step: masks scaled before they are resized

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.hook_handles.append(model.register_forward_pre_hook(self._store_input))
        self.bs = batch_size
        self._relu = True
        self._targets_supported = True

    def _store_input(self, _: nn.Module, input_: tuple[Any, ...]) -> None:
        if self._hooks_enabled:
            self._input = input_[0].detach().clone()

    def _options(self) -> dict[str, Any]:
        return {"samples": 1}

    @torch.no_grad()
    def _get_weights(self, class_idx: Any, *_: Any, targets: Any = None, **kwargs: Any) -> list[Tensor]:
        maps = self._explained(self._engine, self._input, class_idx, targets, batch_size=self.bs, **self._options())
        weights = [layer.weights for layer in maps]
        return [W.squeeze(1) if W.ndim == 3 else W for W in weights]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.bs})"


class _Sampled(ScoreCAM):
    num_samples: int

    def _options(self) -> dict[str, Any]:
        return {"samples": self.num_samples}


class SSCAM(_Sampled):
    """SS-CAM (Wang 2020): Score-CAM over masks with noise of standard deviation ``std``, ``num_samples`` times."""

    _engine = _SSCAM

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std
        self._distrib = torch.distributions.normal.Normal(0, std)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "std": self.std}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.bs}, num_samples={self.num_samples}, std={self.std})"


class ISCAM(_Sampled):
    """IS-CAM (Naidu 2020): Score-CAM over masks of growing strength, in ``num_samples`` steps."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples
