"""Targets of models that score every position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .target import Target

__all__ = ["Segmentation"]


@dataclass(frozen=True, eq=False)
class Segmentation(Target):
    """A class's scores, summed over a region: ``scores[category][mask].sum()``, for scores ``[classes, *size]``.

    ``mask`` is bool or a weight, an array or tensor ``[*size]``; None takes the region where the class has the highest
    score of all. A mask of another resolution, such as that of the image, is brought to that of the scores by its
    nearest values.
    """

    category: int
    mask: Any = None

    def __call__(self, scores: Tensor) -> Tensor:
        if scores.ndim < 2:
            raise ValueError(f"Segmentation needs scores [classes, *size] of an image, got {list(scores.shape)}")
        if not 0 <= self.category < len(scores):
            raise ValueError(f"expected a class from 0 to {len(scores) - 1}, got {self.category}")
        plane = scores[self.category]
        if self.mask is None:
            weights = (scores.detach().argmax(0) == self.category).to(plane)
        else:
            weights = torch.as_tensor(self.mask).to(plane)
        if weights.ndim != plane.ndim:
            raise ValueError(
                f"mask must have the {plane.ndim} dimensions of the scores' {list(plane.shape)}, got {list(weights.shape)}"
            )
        if weights.shape != plane.shape:
            weights = F.interpolate(weights[None, None], size=tuple(plane.shape), mode="nearest")[0, 0]
        return (plane * weights).sum()
