"""Text in pictures: one line on a page, and class names with their scores on frames.

On frames a line is drawn once, by Pillow, and kept: each frame costs the copy of a small rectangle.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import require

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

__all__ = ["Color", "font", "legend", "write_line"]

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

SHADE = 0.35  # share of the frame that shines through behind a text


def legend(frame: Tensor, labels: Sequence[tuple[str, float]], fps: float | None = None, top: bool = False) -> Tensor:
    """Writes class names with their scores into the lower left corner of ``frame``, in place.

    ``camfast.legend(result.overlay(), result.ranking(3), fps=30)`` for a frame of :class:`camfast.Realtime`, and
    ``camfast.legend(result.overlay()[0], [("tabby", 0.65)])`` for an :class:`camfast.Explanation`. The text's height follows
    the frame's, and what does not fit is cut off.

    Args:
        frame: uint8 ``[H, W, 3]``, RGB, on any device.
        labels: names with probabilities in [0, 1], one line each; NaN writes the name alone.
        fps: frames per second, written into the upper right corner.
        top: the names take the upper left corner.

    Returns:
        ``frame``.

    Raises:
        TypeError: ``frame`` is no uint8 tensor.
        ValueError: ``frame`` has another shape.
        ImportError: Pillow is missing: ``pip install "camfast[vision]"``.
    """
    if not isinstance(frame, Tensor) or frame.dtype != torch.uint8:
        got = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
        raise TypeError(f"frame must be a uint8 tensor, got {got}")
    if frame.ndim != 3 or frame.shape[-1] != 3:
        raise ValueError(f"frame must have shape [H, W, 3], RGB, got {list(frame.shape)}: write on one after the other")
    height = max(10, frame.shape[0] // 28)
    lines = [name if math.isnan(score) else f"{name}  {score:.0%}" for name, score in labels]
    y = 0 if top else frame.shape[0] - _line_height(height) * len(lines)
    for line in lines:
        _write_over(frame, line, 0, y, height)
        y += _line_height(height)
    if fps is not None:
        line = f"{fps:.0f} fps"
        _write_over(frame, line, frame.shape[1] - _rendered(line, height).shape[1], 0, height)
    return frame


def write_line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: float,
    color: Color,
    width: float,
    bold: bool = False,
    anchor: str = "la",
    ellipsis: str = "…",
) -> None:
    """Writes one line of ``text`` on a page of Pillow's.

    Args:
        draw: the page's.
        corner: of the text, in pixels: its upper left one, unless ``anchor`` says otherwise.
        text: what is written; what is longer than ``width`` pixels is cut and ends with ``ellipsis``.
        size: of the letters, in pixels.
        color: of the letters.
        width: the room, in pixels.
        bold: writes a second stroke beside the first, since Pillow's own font has one weight.
        anchor: Pillow's, such as "ld" for the lower left corner.
        ellipsis: what a cut text ends with.
    """
    letters = font(size, text)
    if draw.textlength(text, letters) > width:
        while text and draw.textlength(text + ellipsis, letters) > width:
            text = text[:-1].rstrip()
        text += ellipsis
    draw.text(corner, text, fill=color, font=letters, anchor=anchor)
    if bold:
        draw.text((corner[0] + max(1, round(size / 40)), corner[1]), text, fill=color, font=letters, anchor=anchor)


def _write_over(frame: Tensor, line: str, x: int, y: int, height: int) -> None:
    """Writes ``line`` in white on a darkened ground into ``frame`` (uint8 ``[H, W, 3]``), its corner at ``(x, y)``."""
    picture = _rendered(line, height)
    rows, columns = max(-y, 0), max(-x, 0)
    x, y = max(x, 0), max(y, 0)
    place = frame[y : y + picture.shape[0] - rows, x : x + picture.shape[1] - columns]
    if 0 in place.shape:
        return
    ink = torch.from_numpy(picture[rows : rows + place.shape[0], columns : columns + place.shape[1], None])
    dark = (place.to(torch.float32) * SHADE).to(torch.uint8)
    torch.maximum(dark, ink.to(frame.device), out=dark)
    place.copy_(dark)


def _line_height(height: int) -> int:
    return _rendered(" ", height).shape[0]


@functools.lru_cache(maxsize=512)
def _rendered(line: str, height: int) -> np.ndarray:
    """Coverage of ``line``'s pixels, uint8 ``[h, w]``."""
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    margin = height // 4
    rows = int(height * 1.3) + 2 * margin
    columns = int(font(height, line).getlength(line)) + 2 * margin + 1
    picture = Image.new("L", (columns, rows))
    ImageDraw.Draw(picture).text((margin, margin), line, fill=255, font=font(height, line))
    return np.array(picture)


def font(size: float, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or for letters it lacks the first of some common ones that the system has."""
    from PIL import ImageFont

    if not text.isascii():
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf"):
            try:
                return ImageFont.truetype(name, max(size, 6))
            except OSError:
                continue
    return ImageFont.load_default(max(size, 6))
