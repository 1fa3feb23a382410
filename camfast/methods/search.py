"""What the search for a layer needs to know of targets: the scalar to differentiate for one image, and its kind."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..model.outputs import scores_of
from ..targets import Targets
from .chosen import choose

__all__ = ["kind_of", "objective_of"]


def objective_of(targets: Targets, batch: int, class_names: Sequence[str] | None) -> Callable[[Any], Tensor]:
    """The scalar that ``targets`` of a batch stand for in what the model returns for the first image alone."""
    first = _of_the_first(targets, batch)

    def objective(output: Any) -> Tensor:
        chosen = choose(first, scores_of(output, 1), class_names, output)
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


def kind_of(targets: Any) -> Any:
    """Equal for targets that read the same part of the output: all classes do, by number or by name."""
    if isinstance(targets, (list, tuple)):
        kinds = tuple(dict.fromkeys(map(kind_of, targets)))
        return kinds[0] if len(kinds) == 1 else kinds
    if not callable(targets):
        return "scores"
    if isinstance(targets, functools.partial):
        return kind_of(targets.func)
    code = getattr(targets, "__code__", None)
    if code is not None:
        return code  # two lambdas of one name are told apart
    inner = [value for value in getattr(targets, "__dict__", {}).values() if isinstance(value, str) or callable(value)]
    return (type(targets), *(value if isinstance(value, str) else kind_of(value) for value in inner))
