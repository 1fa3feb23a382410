"""A photograph with its heat: drawn where the network looked, the rest dimmed, the class named, the colours explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..ops.colormaps import ALPHA, COLORMAP
from .frames import Box, draw, seen
from .strips import below, enlarged, strip
from .text import legend

__all__ = ["Legend", "explained"]

Legend = Literal["corner", "strip", "none"]
"""Where the class and its score stand: in the picture's corner, in a strip below it with the colours, or nowhere."""

_SMALL = 256  # pixels: a picture with text on it is enlarged to this


def explained(
    photo: np.ndarray,
    heat: Tensor,
    box: Box,
    name: str,
    score: float,
    *,
    colormap: str | Tensor = COLORMAP,
    alpha: float = ALPHA,
    where: Legend = "corner",
    ends: tuple[str, str] = ("least", "greatest"),
    notes: Sequence[str] = (),
) -> np.ndarray:
    """``photo`` with ``heat`` over what the network saw of it.

    What it did not see is grey and dimmed, behind a line (:func:`camfast.pictures.frames.draw`). Small photographs are
    enlarged by a whole factor where there is text to read.

    Args:
        photo: RGB uint8 ``[H, W, 3]``.
        heat: ``[h, w]`` in [0, 1], on any device.
        box: the part that the heat covers; see :func:`camfast.pictures.frames.draw`.
        name, score: the class and its probability.
        colormap, alpha: of the heat.
        where: the class and the score are written.
        ends: in a strip, what the coldest and the hottest colour stand for.
        notes: in a strip, further lines.

    Returns:
        RGB uint8 ``[H', W', 3]``.
    """
    frame = torch.from_numpy(photo)[None].to(heat.device)
    if where != "none":
        height = frame.shape[1]
        frame = enlarged(frame, _SMALL)
        factor = frame.shape[1] // height
        box = (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)
    drawn = draw(frame, heat[None], box, colormap, alpha)[0]
    if where == "corner":
        legend(drawn, [(name, score)])
    picture = drawn.cpu().numpy()
    if where != "strip":
        return picture
    lines = [f"{name}  {score:.1%}", *notes]
    if seen(box, *drawn.shape[:2]) != (0, 0, drawn.shape[1], drawn.shape[0]):
        lines.append("inside the line: what the network saw")
    size = min(28.0, max(13.0, picture.shape[1] / 40))
    return below(picture, strip(picture.shape[1], size, colormap, ends, lines, bold=True, margin=round(0.6 * size)))
