"""Targets of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .target import Target

__all__ = ["Detection"]


@dataclass(frozen=True, eq=False)
class Detection(Target):
    """Boxes that a detector found: for each, its overlap with the best box of this pass plus that box's score.

    A box counts where the overlap (intersection over union) is more than ``iou_threshold`` and the label is the same;
    otherwise it adds 0. The detector returns for each image a mapping with ``boxes`` ``[D, 4]`` (x0, y0, x1, y1),
    ``labels`` ``[D]`` and ``scores`` ``[D]``, as torchvision's do.

    Args:
        boxes: ``[M, 4]`` in the pixels of the image. labels: ``[M]``, or one for all boxes; None: any label.

    Equal to pytorch-grad-cam's ``FasterRCNNBoxScoreTarget``.
    """

    boxes: Any
    labels: Any = None
    iou_threshold: float = 0.5
    whole_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        boxes = torch.as_tensor(self.boxes, dtype=torch.float32)
        if boxes.ndim == 1 and len(boxes) == 4:
            boxes = boxes[None]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must have shape [M, 4], x0, y0, x1, y1, got {list(boxes.shape)}")
        object.__setattr__(self, "boxes", boxes)
        if self.labels is None:
            return
        labels = torch.as_tensor(self.labels).reshape(-1)
        if len(labels) == 1:
            labels = labels.expand(len(boxes))
        if len(labels) != len(boxes):
            raise ValueError(f"labels must be one for each of {len(boxes)} boxes, got {len(labels)}")
        object.__setattr__(self, "labels", labels)

    def __call__(self, output: Any) -> Tensor:
        if not isinstance(output, Mapping) or not {"boxes", "labels", "scores"} <= set(output):
            got = (
                f"a mapping with {', '.join(map(str, output))}"
                if isinstance(output, Mapping)
                else type(output).__name__
            )
            raise TypeError(f"Detection needs a detector's boxes, labels and scores of each image, got {got}")
        found, scores = output["boxes"], output["scores"]
        total = found.sum() * 0 + scores.sum() * 0  # zero, and part of the graph
        if len(found) == 0:
            return total
        overlaps = _iou(self.boxes.to(found), found)  # [M, D]
        best, places = overlaps.max(1)
        counted = best > self.iou_threshold
        if self.labels is not None:
            counted = counted & (output["labels"][places] == self.labels.to(places.device))
        return total + (torch.where(counted, best + scores[places], 0)).sum()


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union ``[M, D]`` of boxes ``[M, 4]`` and ``[D, 4]``."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)
