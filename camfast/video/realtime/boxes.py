"""What a detector found in a frame, and a picture of it: boxes, names, and heat where the boxes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import ops
from ...detection.pictures import outlined, reach_of
from ...ops.colormaps import ALPHA, COLORMAP

__all__ = ["Found", "hottest", "named", "painted"]

PLAIN = 0.5  # heat from which on its colour is drawn in full; fainter heat lets the frame through


class Found(NamedTuple):
    """The boxes that a detector keeps in a frame, best first.

    Attributes:
        boxes: ``[D, 4]``, x0, y0, x1, y1 in pixels of the frame.
        labels: int64 ``[D]``, the numbers of their classes.
        scores: ``[D]``.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def named(names: Sequence[str] | None, number: int) -> str:
    """The name of a class, or "class 7" where names are not known."""
    return str(names[number]) if names is not None and number < len(names) else f"class {number}"


def hottest(heat: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """One map ``[h, w]``: everywhere the greatest of ``heat`` ``[D, h, w]``, each map within reach of its box.

    ``boxes`` ``[D, 4]`` are in pixels of a frame of ``height`` x ``width``, which the maps cover.
    """
    rows, columns = heat.shape[1:]
    scale = torch.tensor([columns / width, rows / height] * 2)
    reach = reach_of(boxes.float().cpu() * scale, (rows, columns)).to(heat.device)
    return (heat * reach).amax(0)


def painted(
    frame: Tensor,
    heat: Tensor,
    found: Found,
    name: Callable[[int], str],
    colormap: str | Tensor = COLORMAP,
    alpha: float = ALPHA,
) -> Tensor:
    """``frame``, uint8 ``[H, W, 3]``, with ``heat`` ``[h, w]``, and around the boxes lines with names and scores.

    What is cold stays as it is, so that the boxes stand in their picture.
    """
    if not len(found.boxes):
        return frame.clone()
    warm = ops.resize_normalize(heat[None].contiguous(), tuple(frame.shape[:2]), normalize=False)[0]
    share = (warm / PLAIN).clamp(max=1)[..., None]
    colored = ops.overlay(frame.contiguous(), warm, colormap, alpha)
    picture = torch.lerp(frame.float(), colored.float(), share).round().to(torch.uint8)
    words = [f"{name(n)} {s:.0%}" for n, s in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]
    return outlined(picture.cpu(), found.boxes.cpu(), found.labels.tolist(), words).to(frame.device)
