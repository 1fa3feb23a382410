"""LeGrad as an extractor: the engine explains the input that was recorded last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....methods import LeGrad as _LeGrad
from .core import _CAM, OutputTarget

__all__ = ["LeGrad"]


class LeGrad(_CAM):
    """LeGrad (Bousselham 2024): positive gradients with respect to attention, averaged over blocks.

    Args:
        target_layer: transformer blocks, by name or module.
        score_projection: a block's tokens ``[N, T, C]`` to scores ``[N, classes]``; None takes the model's own head.
        prefix_tokens: tokens before those of the image. grid_shape: of the image's tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str],
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        prefix_tokens: int = 1,
        grid_shape: tuple[int, int] | None = None,
        enable_hooks: bool = True,
    ) -> None:
        if target_layer is None or target_layer == []:
            raise ValueError("LeGrad requires at least one explicit target block")
        if not isinstance(prefix_tokens, int):
            raise TypeError(f"`prefix_tokens` must be an integer, got {type(prefix_tokens).__name__}")
        if prefix_tokens < 0:
            raise ValueError(f"`prefix_tokens` must be non-negative, got {prefix_tokens}")
        if grid_shape is not None:
            if not (
                isinstance(grid_shape, tuple) and len(grid_shape) == 2 and all(isinstance(n, int) for n in grid_shape)
            ):
                raise TypeError(f"`grid_shape` must be a tuple of two integers, got {grid_shape!r}")
            if min(grid_shape) <= 0:
                raise ValueError(f"`grid_shape` dimensions must be positive, got {grid_shape}")
        if score_projection is not None and not callable(score_projection):
            raise TypeError(f"`score_projection` must be callable, got {type(score_projection).__name__}")
        super().__init__(model, target_layer, enable_hooks=enable_hooks)
        self._score_projection = score_projection
        self.prefix_tokens, self.grid_shape = prefix_tokens, grid_shape
        self.hook_handles.append(model.register_forward_pre_hook(self._store_input))

    def _store_input(self, _: nn.Module, input_: tuple[Any, ...]) -> None:
        if self._hooks_enabled:
            self._input = input_[0].detach().clone()

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        retain_graph: bool = False,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map ``[N, h, w]``, of all blocks."""
        if targets is not None:
            raise ValueError("LeGrad does not support arbitrary output targets")
        explainer = _LeGrad(
            self.model, list(self.target_names), score_projection=self._score_projection, eval_mode=False
        )
        with self._hooks_off(), torch.enable_grad():
            cam = explainer(self._input, class_idx, size="map", normalize=False).heatmap
        if cam.ndim == 4:
            cam = cam.squeeze(1)
        tokens = self.hook_a[0].shape[1] - self.prefix_tokens
        if tokens <= 0:
            raise ValueError("`prefix_tokens` must leave at least one patch token")
        shape = self.grid_shape or tuple(cam.shape[1:])
        if shape[0] * shape[1] != tokens or cam[0].numel() != tokens:
            raise ValueError(f"`grid_shape` does not match the number of patch tokens, {tokens}, got {shape}")
        cam = cam.reshape(-1, *shape).clone()
        return [self._normalize(cam) if normalized else cam]
