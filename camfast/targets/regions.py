"""Targets of regions, boxes and embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.outputs import described
from .base import Target, class_number

__all__ = ["Detection", "Segmentation", "Similarity"]


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Target):
    """A class's scores, summed over a region: ``scores[category][mask].sum()``, for scores ``[classes, *size]``.

    ``mask`` is bool or a weight, an array or tensor ``[*size]``; None takes the region where the class has the highest
    score of all. A mask of another resolution, such as that of the image, is brought to that of the scores by its
    nearest values.
    """

    category: int
    mask: Any = None

    def __post_init__(self) -> None:
        class_number(self, "category", names=False)
        if self.mask is not None:
            torch.as_tensor(self.mask)  # says what is wrong with what is no array

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


@dataclass(frozen=True, eq=False, repr=False)
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
        threshold = self.iou_threshold
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ValueError(f"iou_threshold must be a number from 0 to 1, got {threshold!r}")
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
            raise TypeError(
                f"Detection needs a detector's boxes, labels and scores of each image, got {described(output)}"
            )
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


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Target):
    """Cosine similarity of the image's embedding ``[D]`` to ``reference`` ``[D]``: another image's, or a text's (CLIP).

    An embedding with more dimensions is flattened. With ``Field`` it applies to one field of the output:
    ``Field("image_embeds", Similarity(text))``.
    """

    reference: Any

    def __post_init__(self) -> None:
        if torch.as_tensor(self.reference).numel() == 0:
            raise ValueError("Similarity expects an embedding to compare with, got none")

    def __call__(self, scores: Tensor) -> Tensor:
        embedding = scores.reshape(-1)
        reference = torch.as_tensor(self.reference).detach().to(embedding).reshape(-1)
        if reference.shape != embedding.shape:
            raise ValueError(f"reference must be an embedding of {len(embedding)} numbers, got {len(reference)}")
        return F.cosine_similarity(embedding, reference, dim=0)
