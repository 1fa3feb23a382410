"""Detections as mappings, one an image: ``boxes``, ``labels``, ``scores``, perhaps ``masks``. torchvision's detectors.

The model has chosen: its score threshold, its suppression, its number of boxes. Boxes are in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...model.outputs import detections_in
from .base import Candidates

__all__ = ["of_mappings"]


def of_mappings(output: Any, sizes: Sequence[tuple[int, int]], classes: int | None) -> Candidates | None:
    """``[{"boxes": [D, 4], "labels": [D], "scores": [D]}, ...]``; None for any other output."""
    if isinstance(output, Mapping) and len(sizes) == 1:
        output = [output]
    found = detections_in(output, len(sizes))
    if found is None or not all({"boxes", "labels"} <= set(one) for one in found):
        return None

    def masks(image: int, index: Tensor, boxes: Tensor) -> Tensor:
        return found[image]["masks"][index].flatten(0, 1) - 0.5  # probabilities [D, 1, H, W]

    return Candidates(
        boxes=[one["boxes"] for one in found],
        scores=[one["scores"] for one in found],
        labels=[one["labels"] for one in found],
        masks=masks if all("masks" in one for one in found) else None,
        settled=True,
    )
