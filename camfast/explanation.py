"""The result of an explanation: heatmaps, scores, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Explanation"]


@dataclass(repr=False, eq=False)
class Explanation:
    """Heatmaps and the scores of the same pass."""

    heatmap: Tensor
    scores: Tensor
    targets: Tensor | list[Any]
    layers: list[str]
    method: str
    images: Tensor | None = None
    class_names: Sequence[str] | None = None
