"""Bar charts of numbers of any sign and size, drawn by Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import require
from .text import Color, write_line

__all__ = ["Bar", "bar_chart"]

PAPER, INK, SOFT, TRACK = (255, 255, 255), (28, 32, 38), (104, 112, 122), (228, 231, 236)
BEST, OTHER = (230, 108, 44), (150, 170, 195)


class Bar(NamedTuple):
    """A bar from 0 to ``value``, with a whisker of ``error`` to both sides."""

    name: str
    value: float
    error: float = 0.0
    best: bool = False


def bar_chart(bars: Sequence[Bar], size: tuple[int, int], unit: float = 1.0) -> np.ndarray:
    """``bars``, one per row, with their names and values, as RGB uint8 ``[H, W, 3]`` of ``size`` (W, H).

    All share one scale, from the least to the greatest value or 0. What is not finite has no bar.
    """
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    width, height = size
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    step = height / max(len(bars), 1)
    text = min(21 * unit, step * 0.6)
    left, right = round(width * 0.36), round(width * 0.84)
    ends = [bar.value + side * bar.error for bar in bars for side in (-1, 1) if math.isfinite(bar.value)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = high - low or 1.0
    at = lambda value: left + (value - low) / span * (right - left)  # noqa: E731
    draw.line((at(0), 0, at(0), height), fill=TRACK, width=max(1, round(2 * unit)))
    for row, bar in enumerate(bars):
        middle = (row + 0.5) * step
        top = round(middle - 0.62 * text)
        write_line(draw, (0, top), bar.name, text, INK, left - 10 * unit)
        known = math.isfinite(bar.value)
        if known:
            half = min(step * 0.3, 11 * unit)
            color: Color = BEST if bar.best else OTHER
            ends_at = sorted((at(0), at(bar.value)))
            draw.rectangle((ends_at[0], middle - half, max(ends_at[1], ends_at[0] + 1), middle + half), fill=color)
            if bar.error > 0:
                whisker = (at(bar.value - bar.error), middle, at(bar.value + bar.error), middle)
                draw.line(whisker, fill=SOFT, width=max(1, round(2 * unit)))
        number = f"{bar.value:.3f}" if known else "-"
        write_line(draw, (right + 8 * unit, top), number, text, INK, width - right - 8 * unit, bold=bar.best)
    return np.asarray(page)
