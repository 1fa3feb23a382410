"""What a detector weighed in each image before anything was chosen: boxes, scores, and the numbers to explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...brief import Brief

__all__ = ["Candidates", "Masks", "corners"]

Masks = Callable[[int, Tensor, Tensor], Tensor]
"""``(image, indices [D], boxes [D, 4]) -> [D, h, w]``: above 0 inside the mask, over the whole image, with a graph."""


@dataclass(repr=False)
class Candidates(Brief):
    """Boxes that a detector weighed, a list entry an image. Scores keep the graph of the pass; boxes need none.

    Attributes:
        boxes: ``[A, 4]``, x0, y0, x1, y1 in pixels of the image as the model was given it.
        scores: probabilities ``[A, classes]``; or ``[A]``, where ``labels`` tell each box's class.
        labels: int64 ``[A]``, or None.
        values: what is explained in place of the scores, of their shape: mostly the scores before the last sigmoid, whose
            gradient does not fade where a score is near 1. None: the scores.
        quality: ``[A]``: how sure the model is that there is any object, where it says so.
        masks: gives the masks of some boxes, for models of instances.
        raw: ``[A', classes]``: the numbers before a choice that the model made itself; they reach every level.
        settled: whether the model has suppressed overlapping boxes itself.
        several: whether one box may be kept for several classes.
        named: whether the labels are those of the model's own names, and not of words that were asked for.
    """

    boxes: Sequence[Tensor]
    scores: Sequence[Tensor]
    labels: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    quality: Sequence[Tensor] | None = None
    masks: Masks | None = None
    raw: Sequence[Tensor] | None = None
    settled: bool = False
    several: bool = False
    named: bool = True

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.scores):
            raise ValueError(
                f"candidates must be boxes and scores of the same images, got {len(self.boxes)} and {len(self.scores)}"
            )
        for boxes, scores in zip(self.boxes, self.scores, strict=True):
            if boxes.ndim != 2 or boxes.shape[1] != 4 or len(scores) != len(boxes):
                raise ValueError(
                    f"candidates must be boxes [A, 4] and scores [A, classes], got {list(boxes.shape)} and {list(scores.shape)}"
                )
            if scores.ndim != 2 and self.labels is None:
                raise ValueError(f"scores of boxes without labels must be [A, classes], got {list(scores.shape)}")

    @classmethod
    def of(cls, found: Any) -> Candidates:
        """What a user's function returned: these, a mapping of their fields, or ``(boxes, scores)``."""
        if isinstance(found, cls):
            return found
        if isinstance(found, tuple) and len(found) == 2:
            return cls(list(found[0]), list(found[1]))
        if hasattr(found, "keys") and {"boxes", "scores"} <= set(found):
            fields: Any = {name: list(value) if isinstance(value, Tensor) else value for name, value in found.items()}
            return cls(**fields)
        raise TypeError(
            f"candidates must return camfast.detection.Candidates, or (boxes, scores), got {type(found).__name__}"
        )

    def explained(self, image: int, index: Tensor, labels: Tensor) -> Tensor:
        """The numbers to explain, ``[D]``, of the boxes ``index`` ``[D]`` of an image, for the classes ``labels`` ``[D]``."""
        values = (self.scores if self.values is None else self.values)[image]
        return values[index] if values.ndim == 1 else values[index, labels]

    def places(self, image: int, index: Tensor, labels: Tensor) -> tuple[Tensor | None, int]:
        """Where boxes ``index`` ``[D]`` are in the order of all that the model weighed, and how many these are."""
        return (None, 0) if self.settled else (index, len(self.boxes[image]))

    def everything(self, image: int) -> Tensor:
        """All numbers that may be explained in an image."""
        return (self.raw or self.values or self.scores)[image]


def corners(boxes: Tensor) -> Tensor:
    """Corners x0, y0, x1, y1 of boxes ``[..., 4]`` that are given by centre, width and height."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], -1)
