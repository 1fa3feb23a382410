"""Labelled pictures: panels in rows, each with a caption, drawn by Pillow in the font it brings along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..brief import Brief
from ..errors import require
from .text import Color, write_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Panel", "bars", "compose"]

PAPER, INK, SOFT, TRACK = (255, 255, 255), (28, 32, 38), (104, 112, 122), (243, 244, 246)


@dataclass(repr=False)
class Panel(Brief):
    """A picture, RGB uint8 ``[H, W, 3]``, with a bold caption and a softer note below it.

    ``mark`` puts a dot of that colour before the caption. ``smooth=False`` keeps the pixels of a small map visible as
    squares when it is enlarged.
    """

    picture: np.ndarray
    caption: str
    note: str = ""
    mark: Color | None = None
    smooth: bool = True


def compose(
    rows: Sequence[Sequence[Panel]],
    title: str = "",
    subtitle: str = "",
    width: int = 1600,
    unit: float | None = None,
    foot: Callable[[int, float, int], np.ndarray] | None = None,
) -> Image.Image:
    """One picture of ``rows`` of panels, ``width`` pixels wide, below a title.

    The panels of a row share its width evenly, and its height: that of the tallest, at most as tall as wide. Text
    scales with ``unit``, by default a 1600th of ``width``; a caption too long for its panel is cut with an ellipsis.
    ``foot`` makes a strip below everything, RGB uint8 ``[h, width, 3]``, of the width, the letters' size and the margin.
    """
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    unit = width / 1600 if unit is None else unit
    margin, gap, line = round(40 * unit), round(28 * unit), round(34 * unit)
    columns = max(len(row) for row in rows)
    cell = (width - 2 * margin - (columns - 1) * gap) // columns
    heights = [max(min(cell, round(cell * p.picture.shape[0] / p.picture.shape[1])) for p in row) for row in rows]
    head = round(40 * unit) + (round(58 * unit) if title else 0) + (round(44 * unit) if subtitle else 0)
    labels = round(14 * unit) + 2 * line
    height = head + sum(heights) + len(rows) * labels + (len(rows) - 1) * gap + round(24 * unit)
    under = None if foot is None else foot(width, 22 * unit, margin)
    below = height
    height += 0 if under is None else under.shape[0] + round(16 * unit)

    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        write_line(draw, (margin, round(34 * unit)), title, 42 * unit, INK, width - 2 * margin, bold=True)
    if subtitle:
        write_line(draw, (margin, round(90 * unit)), subtitle, 25 * unit, SOFT, width - 2 * margin)
    top = head
    for row, tall in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            left = margin + column * (cell + gap)
            picture = _fitted(panel, cell, tall)
            corner = (left + (cell - picture.width) // 2, top + (tall - picture.height) // 2)
            page.paste(picture, corner, _rounded(picture.size, 12 * unit))
            line_top = top + tall + round(12 * unit)
            indent = 0
            if panel.mark is not None:
                indent = round(30 * unit)
                dot = _dot(round(18 * unit), panel.mark)
                page.paste(dot, (left, line_top + round(7 * unit)), dot)
            write_line(draw, (left + indent, line_top), panel.caption, 26 * unit, INK, cell - indent, bold=True)
            write_line(draw, (left, line_top + line), panel.note, 22 * unit, SOFT, cell)
        top += tall + labels + gap
    if under is not None:
        page.paste(Image.fromarray(under), (0, below))
    return page


def bars(
    entries: Sequence[tuple[str, float]], colors: Sequence[Color], size: tuple[int, int], unit: float = 1.0
) -> np.ndarray:
    """A bar chart of ``entries`` (name, value in [0, 1]), one bar per row, as RGB uint8 ``[H, W, 3]`` of ``size`` (W, H).

    The longest bar is the largest value; each value is written as a percentage. ``colors`` has one colour per bar.
    """
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    width, height = size
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    step = height / max(len(entries), 1)
    text = min(25 * unit, step * 0.5)
    names, numbers = round(width * 0.34), round(width * 0.14)
    longest = max((value for _, value in entries), default=0) or 1
    for row, ((name, value), color) in enumerate(zip(entries, colors, strict=True)):
        middle = (row + 0.5) * step
        write_line(draw, (0, round(middle - 0.62 * text)), name, text, INK, names - round(14 * unit))
        left, right = names, width - numbers
        half = min(step * 0.24, 16 * unit)
        draw.rounded_rectangle((left, middle - half, right, middle + half), half / 2, fill=TRACK)
        end = left + max(half, (right - left) * value / longest)
        draw.rounded_rectangle((left, middle - half, end, middle + half), half / 2, fill=color)
        write_line(draw, (right + round(12 * unit), round(middle - 0.62 * text)), f"{value:.1%}", text, INK, numbers)
    return np.asarray(page)


def _fitted(panel: Panel, width: int, height: int) -> Image.Image:
    """The panel's picture, as large as fits into ``width`` x ``height``."""
    from PIL import Image

    picture = Image.fromarray(panel.picture)
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    method = Image.Resampling.LANCZOS if panel.smooth else Image.Resampling.NEAREST
    return picture if picture.size == size else picture.resize(size, method)


def _rounded(size: tuple[int, int], radius: float) -> Image.Image:
    """A mask of ``size`` with rounded corners; drawn four times larger, so that their edges are smooth."""
    from PIL import Image, ImageDraw

    large = size[0] * 4, size[1] * 4
    mask = Image.new("L", large)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, large[0] - 1, large[1] - 1), radius * 4, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def _dot(size: int, color: Color) -> Image.Image:
    from PIL import Image

    dot = Image.new("RGBA", (size, size), color)
    dot.putalpha(_rounded((size, size), size / 2))
    return dot
