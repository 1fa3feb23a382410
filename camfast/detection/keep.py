"""Which candidates are kept: those above a score, of the wanted classes, without those that overlap a better one.

Where the model has suppressed overlapping boxes itself, its choice stands. Else the usual greedy suppression, class by
class: the best box stays, and every other one of its class that overlaps it by more than ``overlap`` goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..brief import Brief
from .candidates import Candidates

__all__ = ["Kept", "kept_in", "overlaps"]

_AT_ONCE = 128  # boxes that are compared with one another
_MOST = 300  # boxes of an image, as detectors' own suppression has it


@dataclass(repr=False)
class Kept(Brief):
    """The boxes of one image that are explained: their places among the candidates, classes, scores and corners."""

    index: Tensor  # [D]
    labels: Tensor  # int64 [D]
    scores: Tensor  # [D]
    boxes: Tensor  # [D, 4]

    def __len__(self) -> int:
        return len(self.index)


def kept_in(
    candidates: Candidates,
    image: int,
    classes: Sequence[int] | None = None,
    min_score: float = 0.25,
    top: int | None = 16,
    overlap: float = 0.7,
) -> Kept:
    """The boxes of ``image`` that are kept, the best first, at most ``top``.

    Args:
        candidates: what the detector weighed.
        image: which one.
        classes: only these; None: all.
        min_score: a box must score more.
        top: at most so many; None: at most 300.
        overlap: intersection over union above which the lesser of two boxes of a class goes, where the model has not
            suppressed any itself.
    """
    boxes, scores = (_wide(values[image].detach()) for values in (candidates.boxes, candidates.scores))
    if scores.ndim == 1:
        assert candidates.labels is not None
        labels = candidates.labels[image].long()
        index = (scores > min_score).nonzero()[:, 0]
        scores, labels = scores[index], labels[index]
    elif candidates.several:
        index, labels = (scores > min_score).nonzero().unbind(1)
        scores = scores[index, labels]
    else:
        best = scores.amax(1)
        index = (best > min_score).nonzero()[:, 0]
        scores, labels = best[index], scores[index].argmax(1)
    if classes is not None:
        wanted = torch.isin(labels, torch.as_tensor(list(classes), device=labels.device, dtype=labels.dtype))
        index, labels, scores = index[wanted], labels[wanted], scores[wanted]
    order = scores.argsort(descending=True, stable=True)
    index, labels, scores = index[order], labels[order], scores[order]
    boxes = boxes[index]
    most = _MOST if top is None else top
    if candidates.settled:
        first = torch.arange(min(most, len(index)), device=index.device)
    else:
        first = _suppressed(boxes, labels, most, overlap)
    return Kept(index[first], labels[first], scores[first], boxes[first])


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.element_size() < 4 else values


def _suppressed(boxes: Tensor, labels: Tensor, most: int, overlap: float) -> Tensor:
    """The first ``most`` boxes that overlap no earlier one of their class too much. Boxes come best first."""

    def clash(a: Tensor, b: Tensor) -> Tensor:
        return (overlaps(boxes[a], boxes[b]) > overlap) & (labels[a][:, None] == labels[b][None])

    best = torch.arange(0, device=boxes.device)
    for part in torch.arange(len(boxes), device=boxes.device).split(_AT_ONCE):
        part = part[~clash(best, part).any(0)]
        loses = clash(part, part).cpu().numpy()
        out = np.zeros(len(part), bool)
        kept: list[int] = []
        for i in range(len(part)):
            if not out[i]:
                kept.append(i)
                out |= loses[i]
            if len(best) + len(kept) == most:
                break
        best = torch.cat([best, part[torch.tensor(kept, dtype=torch.int64, device=part.device)]])
        if len(best) == most:
            break
    return best


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union ``[M, D]`` of boxes ``[M, 4]`` and ``[D, 4]``; 0 for boxes without an area."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    width, height = (high - low).clamp(min=0).unbind(2)
    shared = width * height
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return torch.where(union > 0, shared / union, 0)
