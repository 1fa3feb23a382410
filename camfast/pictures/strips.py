"""Strips that belong below a picture: the colours of its heat, with what their ends mean, and lines of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..errors import require
from ..ops.colormaps import table
from .text import font, write_line

__all__ = ["below", "enlarged", "strip"]

PAPER, INK, SOFT = (255, 255, 255), (28, 32, 38), (104, 112, 122)


def strip(
    width: int,
    size: float,
    colormap: str | Tensor,
    ends: tuple[str, str],
    lines: Sequence[str],
    bold: bool = False,
    margin: int = 0,
) -> np.ndarray:
    """``lines`` of text, and below them a bar of the colours from the coldest to the hottest, between its two ``ends``.

    Args:
        width: of the strip, in pixels; lines that are longer are cut with an ellipsis.
        size: of the letters, in pixels.
        colormap: as in :func:`camfast.ops.overlay`.
        ends: what stands at the cold and at the hot end of the bar.
        lines: above the bar.
        bold: the first line is bold, those after it softer.
        margin: left and right of everything, in pixels.

    Returns:
        RGB uint8 ``[h, width, 3]``.
    """
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    step = round(1.45 * size)
    height = round(0.5 * size) + step * (len(lines) + 1)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    room = max(1, width - 2 * margin)
    top = round(0.25 * size)
    for number, line in enumerate(lines):
        first = bold and number == 0
        write_line(draw, (margin, top), line, size, INK if first else SOFT, room, bold=first)
        top += step
    gap = round(0.6 * size)
    left = margin + round(draw.textlength(ends[0], font(size, ends[0]))) + gap
    right = width - margin - round(draw.textlength(ends[1], font(size, ends[1]))) - gap
    write_line(draw, (margin, top), ends[0], size, INK, room)
    write_line(draw, (right + gap, top), ends[1], size, INK, room)
    if right > left:
        colors = table(colormap).cpu().numpy()[np.linspace(0, 255, right - left).astype(int)]
        bar = np.broadcast_to(colors, (max(1, round(0.8 * size)), *colors.shape))
        page.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top + round(0.2 * size)))
    return np.asarray(page)


def below(picture: np.ndarray, under: np.ndarray) -> np.ndarray:
    """``picture`` with the strip ``under`` it; both RGB uint8, of one width."""
    return np.concatenate([picture, under])


def enlarged(frames: Tensor, side: int) -> Tensor:
    """Small ``frames``, uint8 ``[N, H, W, 3]``, by the whole factor that brings their longer side to ``side`` or more.

    Pixels stay visible as squares; frames that are large enough are returned as they are.
    """
    factor = -(-side // max(frames.shape[1:3]))
    if factor < 2:
        return frames
    return frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
