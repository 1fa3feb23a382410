"""What a clip showed, over time: the top classes of each frame as a table, and the most frequent ones as a chart."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import require
from ..pictures import figures, photos
from ..pictures.text import write_line
from .loop import Row

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["chart", "write_chart", "write_table"]

_LINES = ((214, 73, 51), (38, 110, 191), (33, 140, 90), (219, 148, 24), (128, 82, 178))
_GRID, _PAPER = (229, 231, 235), (255, 255, 255)


def write_table(rows: Sequence[Row], class_name: Callable[[int], str], path: Path) -> Path:
    """Writes a CSV with a line for each of the best classes of each frame, and for the explained ones wherever they rank.

    Columns: frame, seconds, rank, class, name, score, explained (1 or 0).
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "seconds", "rank", "class", "name", "score", "explained"])
    for row in rows:
        lines = [(rank, *line) for rank, line in enumerate(zip(row.classes, row.scores, strict=True), 1)]
        lines += [(rank, n, score) for n, (rank, score) in row.explained.items() if n not in row.classes]
        for rank, number, score in sorted(lines):
            explained = int(number in row.explained)
            table.writerow(
                [row.frame, f"{row.seconds:.3f}", rank, number, class_name(number), f"{score:.4f}", explained]
            )
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace", newline="")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_chart(rows: Sequence[Row], class_name: Callable[[int], str], path: Path, title: str = "") -> Path:
    """Writes :func:`chart` as a picture."""
    return photos.write(chart(rows, class_name, title), path)


def chart(rows: Sequence[Row], class_name: Callable[[int], str], title: str = "", width: int = 1600) -> Image.Image:
    """The scores of five classes over time, each a line, with its name beside its color.

    They are the classes that were explained in most frames, and then those that were highest altogether.
    """
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    shown = _shown(rows)
    scale, height = 2, round(width * 0.5)  # drawn twice as large: smooth lines
    page = Image.new("RGB", (width * scale, height * scale), _PAPER)
    draw = ImageDraw.Draw(page)
    unit = width * scale / 1600
    left, right, top, bottom = (round(x * unit) for x in (90, 1150, 110, 720))
    if title:
        write_line(draw, (round(40 * unit), round(34 * unit)), title, 36 * unit, figures.INK, right, bold=True)
    first, last = rows[0].seconds, max(rows[-1].seconds, rows[0].seconds + 1e-6)
    for percent in range(0, 101, 25):
        y = bottom - (bottom - top) * percent / 100
        draw.line((left, y, right, y), _GRID, max(1, round(2 * unit)))
        write_line(draw, (round(24 * unit), round(y - 14 * unit)), f"{percent} %", 22 * unit, figures.SOFT, left)
    for part in range(6):
        seconds = first + (last - first) * part / 5
        x = left + (right - left) * part / 5
        place = (round(x - 24 * unit), round(bottom + 14 * unit))
        write_line(draw, place, f"{seconds:.1f} s", 22 * unit, figures.SOFT, left)
    xs = left + (right - left) * (np.array([row.seconds for row in rows]) - first) / (last - first)
    for rank, number in enumerate(shown):
        scores = [row.score(number) for row in rows]
        points = [(x, bottom - (bottom - top) * score) for x, score in zip(xs, scores, strict=True)]
        if len(points) == 1:
            points *= 2
        draw.line(points, _LINES[rank], round(5 * unit), joint="curve")
        y = top + round(rank * 84 * unit)
        x = right + round(40 * unit)
        draw.ellipse((x, y + 7 * unit, x + 18 * unit, y + 25 * unit), fill=_LINES[rank])
        room = round(360 * unit)
        write_line(draw, (x + round(32 * unit), y), class_name(number), 26 * unit, figures.INK, room, bold=True)
        share = sum(number in row.explained for row in rows) / len(rows)
        note = f"{np.mean(scores):.0%} on average" + (f", explained in {share:.0%}" if share else "")
        write_line(draw, (x + round(32 * unit), y + round(34 * unit)), note, 22 * unit, figures.SOFT, room)
    return page.resize((width, height), Image.Resampling.LANCZOS)


def _shown(rows: Sequence[Row]) -> list[int]:
    """The classes of the chart: those explained most often, then those of the highest scores."""
    explained = Counter(number for row in rows for number in row.explained)
    totals: defaultdict[int, float] = defaultdict(float)
    for row in rows:
        for number in {*row.classes, *row.explained}:
            totals[number] += row.score(number)
    return sorted(totals, key=lambda number: (-explained[number], -totals[number]))[: len(_LINES)]
