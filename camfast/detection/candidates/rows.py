"""A table of numbers an image: coordinates, perhaps "is there an object", and a score of each class.

    [N, 4 + classes (+ masks), A]   anchor-free heads of ultralytics: centre, size, probabilities; not suppressed
    [N, A, 5 + classes]             YOLOX, YOLOv5 and their kin: centre, size, object, probabilities; not suppressed
    [N, Q, 4 + classes]             RT-DETR of ultralytics: in shares of the image
    [N, R, 6 (+ masks)]             chosen by the model: corners, score, class; RT-DETR of today: centre and size in
                                    shares of the image, score, class

What stands beside the table is used where it is there: logits ``[N, classes, A]`` of the same boxes, under ``"scores"``
in a mapping, and prototypes of masks ``[N, masks, h, w]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Candidates, Masks, corners

__all__ = ["of_rows"]

_RELATIVE = 2.0  # boxes in shares of the image may reach a little beyond 1; boxes in pixels are hardly ever so small


def of_rows(output: Any, sizes: Sequence[tuple[int, int]], classes: int | None) -> Candidates | None:
    """One of the tables above, alone or first in a tuple; None for any other output."""
    table = output
    while isinstance(table, (tuple, list)) and table:
        table = table[0]
    if not isinstance(table, Tensor) or table.ndim != 3 or len(table) != len(sizes) or not table.is_floating_point():
        return None
    if min(table.shape[1:]) == 0:
        return None
    logits = list(_logits(output, len(table)))
    if _is_chosen(table):
        return _chosen(output, table, logits, sizes)
    return _weighed(output, table, logits, sizes, classes)


def _logits(output: Any, batch: int) -> Iterator[Tensor]:
    """Every ``"scores"`` ``[N, classes, A]`` in mappings beside the table."""
    if isinstance(output, Mapping):
        scores = output.get("scores")
        if isinstance(scores, Tensor) and scores.ndim == 3 and len(scores) == batch:
            yield scores
        for value in output.values():
            yield from _logits(value, batch)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _logits(value, batch)


def _is_chosen(table: Tensor) -> bool:
    """Whether rows are corners, score, class: a column of whole numbers behind one of probabilities."""
    if table.shape[2] < 6:
        return False
    score, label = table.detach()[..., 4].float(), table.detach()[..., 5].float()
    return bool(((score >= 0) & (score <= 1)).all() and (label == label.round()).all() and (label >= 0).all())


@dataclass(repr=False)
class _Chosen(Candidates):
    """Rows that the model chose, each traced back to the logit it came from: by its class, and by its very score."""

    def explained(self, image: int, index: Tensor, labels: Tensor) -> Tensor:
        places, _ = self.places(image, index, labels)
        if places is None or self.raw is None:
            return self.scores[image][index]
        return self.raw[image][places, labels]

    def places(self, image: int, index: Tensor, labels: Tensor) -> tuple[Tensor | None, int]:
        if self.raw is None or not len(index):
            return None, 0
        scores = self.scores[image].detach()[index]
        distance = (self.raw[image].detach()[:, labels].sigmoid() - scores).abs()  # [A', D]
        least, places = distance.min(0)
        same = (distance == 0).sum(0)
        if bool((least > 0).any() | (same > 1).any()):
            return None, 0  # of another branch, or not to be told apart
        return places, len(distance)


def _chosen(output: Any, table: Tensor, logits: list[Tensor], sizes: Sequence[tuple[int, int]]) -> Candidates:
    # Of several branches the one whose scores the rows are: those of their best boxes are the same.
    best = table.detach()[..., 4].amax(1)
    raw = next((t for t in reversed(logits) if torch.equal(t.detach().sigmoid().amax((1, 2)), best)), None)
    if raw is not None and not raw.requires_grad and table.requires_grad:
        raw = None
    boxes = table[..., :4]
    if _in_shares(boxes):
        low, high = boxes.detach().split(2, -1)
        boxes = _pixels(corners(boxes) if bool((high < low).any()) else boxes, sizes)
    return _Chosen(
        boxes=list(boxes.unbind(0)),
        scores=list(table[..., 4].unbind(0)),
        labels=list(table.detach()[..., 5].long().unbind(0)),
        raw=None if raw is None else list(raw.transpose(1, 2).unbind(0)),
        masks=_masks(output, table[..., 6:]),
        settled=True,
    )


def _in_shares(boxes: Tensor) -> bool:
    return bool(boxes.detach().abs().amax() <= _RELATIVE)


def _pixels(boxes: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    return boxes * boxes.new_tensor([(w, h, w, h) for h, w in sizes])[:, None]


def _weighed(
    output: Any, table: Tensor, logits: list[Tensor], sizes: Sequence[tuple[int, int]], classes: int | None
) -> Candidates | None:
    of_these = next((t for t in logits if t.shape[2] == table.shape[2] and _fits(t, table)), None)
    if of_these is not None:
        axis, start, classes = 1, 4, of_these.shape[1]
    else:
        axis, start = _order(tuple(table.shape), classes)
    rows = table if axis == 2 else table.transpose(1, 2)  # [N, A, columns]
    columns = rows.shape[2] - start
    count = columns if classes is None or classes > columns else classes
    if count < 1:
        return None
    boxes, scores = rows[..., :4], rows[..., start : start + count]
    if _in_shares(boxes):
        boxes = _pixels(boxes, sizes)
    values = None
    if of_these is not None and (of_these.requires_grad or not table.requires_grad):
        values = list(of_these.transpose(1, 2).unbind(0))
    quality = rows[..., 4] if start == 5 else None
    if quality is not None:
        scores = scores * quality[..., None]
    return Candidates(
        boxes=list(corners(boxes).unbind(0)),
        scores=list(scores.unbind(0)),
        values=values,
        quality=None if quality is None else list(quality.unbind(0)),
        masks=_masks(output, rows[..., start + count :]),
    )


def _fits(logits: Tensor, table: Tensor) -> bool:
    """Whether the columns of ``table`` behind the coordinates are the probabilities of ``logits``."""
    count = logits.shape[1]
    return table.shape[1] >= 4 + count and torch.equal(table.detach()[:, 4 : 4 + count], logits.detach().sigmoid())


def _order(shape: tuple[int, ...], classes: int | None) -> tuple[int, int]:
    """The axis of the columns, and how many are before the first class: by the number of classes, else the shorter axis."""
    for axis, start in ((1, 4), (2, 5), (2, 4), (1, 5)):
        if classes is not None and shape[axis] - start == classes:
            return axis, start
    return (1, 4) if shape[1] <= shape[2] else (2, 5)


def _masks(output: Any, coefficients: Tensor) -> Masks | None:
    """Masks as sums of prototypes ``[N, masks, h, w]``, each inside its box; None where there are no prototypes."""
    count = coefficients.shape[2]
    prototypes = next((t for t in _maps(output) if t.shape[:2] == (len(coefficients), count)), None) if count else None
    if prototypes is None:
        return None
    return lambda image, index, boxes: torch.einsum("dm,mhw->dhw", coefficients[image, index], prototypes[image])


def _maps(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.ndim == 4:
            yield output
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _maps(value)
