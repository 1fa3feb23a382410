"""FinerCAM: a method of this package, explaining how a class differs from those of the nearest scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .grad_cam import GradCAM
from .utils.model_targets import FinerWeightedTarget

__all__ = ["DEFAULT_COMPARISON_CATEGORIES", "FinerCAM"]

DEFAULT_COMPARISON_CATEGORIES = (1, 2, 3)


class FinerCAM:
    """``base_method``, its target a :class:`~.utils.model_targets.FinerWeightedTarget` found from the scores."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Any = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.compute_input_gradient = self.base_cam.compute_input_gradient
        self.uses_gradients = self.base_cam.uses_gradients

    @property
    def _htcore(self) -> Any:
        """What tells a Gaudi to run, where the model lies on one; ``base_method`` calls it after its backward pass."""
        return self.base_cam._htcore

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Any = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> np.ndarray:
        """Maps ``[N, H, W]``; targets that are given are explained as they are.

        ``target_idx`` is the class, None for each image's top class; ``comparison_categories`` are places in the order of
        nearness to its score, 1 being the nearest.
        """
        if targets is None:
            places = DEFAULT_COMPARISON_CATEGORIES if comparison_categories is None else tuple(comparison_categories)
            targets = [_Nearest(alpha, places, target_idx)] * len(input_tensor)
        return self.base_cam.forward(input_tensor, targets, eigen_smooth)

    def __enter__(self) -> FinerCAM:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, exc_tb: Any) -> bool | None:
        return self.base_cam.__exit__(exc_type, exc_value, exc_tb)

    def __del__(self) -> None:
        if "base_cam" in self.__dict__:
            self.base_cam.activations_and_grads.release()


class _Nearest:
    """The target of an image, which its own scores decide."""

    def __init__(self, alpha: float, places: Sequence[int], category: int | None) -> None:
        self.alpha, self.places, self.category = alpha, places, category

    def __call__(self, scores: Tensor) -> Tensor:
        fixed = scores.detach()
        own = fixed.max() if self.category is None else fixed[self.category]
        order = (fixed - own).abs().argsort(stable=True).tolist()
        others = [order[place] for place in self.places if place < len(order)]
        return FinerWeightedTarget(order[0], others, self.alpha)(scores)
