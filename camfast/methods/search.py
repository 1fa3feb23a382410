"""What the search for a layer needs to know of targets: the scalar to differentiate for one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..model.class_axis import Classes
from ..targets import ClassNames, Targets
from .chosen import choose, scores_for

__all__ = ["objective_of"]


def objective_of(
    targets: Targets, batch: int, class_names: ClassNames | None, classes: Classes | None = None
) -> Callable[[Any], Tensor]:
    """The scalar that ``targets`` of a batch stand for in what the model returns for the first image alone."""
    first = _of_the_first(targets, batch)

    def objective(output: Any) -> Tensor:
        chosen = choose(first, scores_for(first, output, 1), class_names, output, classes)
        outputs, seeds = chosen.objective()
        if seeds is None:
            return outputs
        if chosen.per_image is not None:
            # Unequal shares: the sum of all classes of a softmax has no gradient.
            share = 1 / torch.arange(1, len(seeds) + 1, dtype=seeds.dtype, device=seeds.device)
            seeds = seeds * share.reshape(-1, *(1,) * (seeds.ndim - 1))
        return (outputs * seeds).sum()

    return objective


def _of_the_first(targets: Any, batch: int) -> Any:
    if isinstance(targets, str) or not hasattr(targets, "__len__") or callable(targets):
        return targets
    scalar = isinstance(targets, Tensor) and targets.ndim == 0
    return targets if scalar or len(targets) != batch else targets[:1]
