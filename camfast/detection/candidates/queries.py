"""A row of logits and a box for each query: DETR and its kin, from Hugging Face (``logits``, ``pred_boxes``) or as first
written (``pred_logits``, ``pred_boxes``), RF-DETR, OWL-ViT.

Boxes are centre, width and height in shares of the image. Of two kinds of scores: a softmax with a last class "no object"
(DETR, YOLOS), or a sigmoid for each class (Deformable DETR and later). Which one it is, the number of classes tells; where
that is unknown, whether the last class is the likeliest of most queries. Queries do not overlap by training: nothing is
suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...model.outputs import field_of
from .base import Candidates, corners

__all__ = ["of_queries"]


def of_queries(output: Any, sizes: Sequence[tuple[int, int]], classes: int | None) -> Candidates | None:
    """Logits ``[N, Q, classes (+ 1)]`` and boxes ``[N, Q, 4]``; None for any other output."""
    if isinstance(output, Tensor):
        return None
    boxes = field_of(output, "pred_boxes")
    logits = next((t for name in ("logits", "pred_logits") if (t := field_of(output, name)) is not None), None)
    if not isinstance(boxes, Tensor) or not isinstance(logits, Tensor) or logits.ndim != 3 or len(logits) != len(sizes):
        return None
    of_words = field_of(output, "text_embeds") is not None  # one column a text
    extents = boxes.new_tensor([(w, h, w, h) for h, w in sizes])[:, None]
    pixels = list((corners(boxes) * extents).unbind(0))
    masks = _masks(field_of(output, "pred_masks"))
    if not of_words and _has_no_object(logits, classes):
        scores = logits.softmax(-1)
        return Candidates(
            pixels,
            list(scores[..., :-1].unbind(0)),
            values=list(logits.log_softmax(-1)[..., :-1].unbind(0)),
            quality=list((1 - scores[..., -1]).unbind(0)),
            masks=masks,
            settled=True,
        )
    return Candidates(
        pixels,
        list(logits.sigmoid().unbind(0)),
        values=list(logits.unbind(0)),
        masks=masks,
        settled=True,
        several=True,
        named=not of_words,
    )


def _has_no_object(logits: Tensor, classes: int | None) -> bool:
    columns = logits.shape[-1]
    if classes is not None and columns in (classes, classes + 1):
        return columns == classes + 1
    return bool((logits.detach().argmax(-1) == columns - 1).float().mean() >= 0.5)


def _masks(planes: Any) -> Any:
    """From ``[N, Q, h, w]``, logits of each query's mask."""
    if not isinstance(planes, Tensor):
        return None
    return lambda image, index, boxes: planes[image, index]
