"""What metrics share that explain anew: an explainer, or any callable, asked for the same targets of other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..methods.explainer import Explainer
from ..methods.explanation import Explanation
from .heat import Heat, planes_of

__all__ = ["Explain", "explained", "plane_targets"]

Explain = Explainer | Callable[[Tensor, Any], Any]
"""An explainer, or a callable ``(images, targets)`` that gives an explanation or a heatmap."""


def explained(
    explain: Explain, images: Tensor, heat: Heat | None, targets: Any
) -> tuple[Tensor, Tensor, int | None, Any]:
    """The heat of ``images``, where it is not given, as :func:`camfast.metrics.heat.planes_of` gives it, and its targets.

    Targets that were resolved by the explanation are those of every further call: a changed image is explained for the same
    class, whatever its best one is.
    """
    if not callable(explain):
        raise TypeError(f"expected an explainer, or a callable (images, targets), got {type(explain).__name__}")
    if heat is None:
        heat = explain(images, targets)
    if isinstance(heat, Explanation):
        targets = heat.targets if targets is None else targets
    return (*planes_of(heat, images), targets)


def plane_targets(explain: Explain, images: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The heat of ``images``, ``[P, *size]``, and which of it is finite, ``[P]``."""
    with torch.no_grad():
        return planes_of(explain(images, targets), images)[:2]
