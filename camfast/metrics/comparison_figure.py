"""A comparison as one labelled picture: every method's heat on the same images, and a chart of each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..methods.chosen import count_per_image
from ..methods.explanation import Explanation
from ..methods.figure import colours_of, score_text
from ..methods.registry import METHODS
from ..pictures import figures
from ..pictures.charts import Bar, bar_chart
from ..pictures.frames import as_frames
from ..pictures.strips import enlarged
from .table import Table

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["comparison_figure"]

WIDTH, COLUMNS, CHARTS = 1600, 7, 3
SIDE = 224  # to which small images are enlarged


def comparison_figure(
    table: Table,
    results: Mapping[str, Explanation],
    frames: Any,
    images: int,
    colormap: str | Tensor,
    alpha: float,
) -> Image.Image:
    """The picture; see :meth:`camfast.metrics.Comparison.figure`."""
    from PIL import Image

    maps = _maps(results, frames, images, colormap, alpha)
    charts = _charts(table)
    page = Image.new("RGB", (WIDTH, maps.height + charts.height), figures.PAPER)
    page.paste(maps, (0, 0))
    page.paste(charts, (0, maps.height))
    return page


def _maps(
    results: Mapping[str, Explanation], frames: Any, images: int, colormap: str | Tensor, alpha: float
) -> Image.Image:
    """Rows of images, each with all methods' heat; of K targets an image the first."""
    first = next(iter(results.values()))
    shown = min(images, len(first))
    pictures = as_frames(first.images if frames is None else frames, len(first), first.heatmap.device)[:shown]
    pictures = enlarged(pictures, SIDE)
    drawn = {
        name: colours_of(_first(result)[:shown])[0].overlay(pictures, colormap, alpha)
        for name, result in results.items()
    }
    columns = min(COLUMNS, len(results) + 1)
    rows = []
    for i in range(shown):
        one = _first(first)
        panels = [figures.Panel(_array(pictures[i]), one.label(i), score_text(one, i))]
        panels += [figures.Panel(_array(drawn[name][i]), _title(name)) for name in results]
        rows += [panels[start : start + columns] for start in range(0, len(panels), columns)]
    others = len(first) - shown
    more = f"; {others} more {'image' if others == 1 else 'images'} in the numbers below" if others else ""
    return figures.compose(rows, "Methods side by side", f"Each map by its own range{more}", WIDTH, 0.7)


def _charts(table: Table) -> Image.Image:
    """A panel per metric."""
    panels = []
    for column, (metric, better) in enumerate(zip(table.metrics, table.better, strict=True)):
        best = table.best(column)
        bars = []
        for method, cells in zip(table.methods, table.cells, strict=True):
            cell = cells[column]
            error = cell.error if math.isfinite(cell.error) else 0.0
            bars.append(Bar(_title(method), cell.mean, error, cell.mean == best))
        size = 500, max(60, 34 * len(bars))
        note = f"{'more' if better == 'higher' else 'less'} is better; {table.cells[0][column].count} maps"
        panels.append(figures.Panel(bar_chart(bars, size), metric.replace("_", " "), note))
    rows = [panels[start : start + CHARTS] for start in range(0, len(panels), CHARTS)]
    rows[0] += [] if len(rows) > 1 else [_blank(panels[0])] * (CHARTS - len(rows[0]))
    subtitle = "Means over all maps with their standard errors; the best of each is orange"
    return figures.compose(rows, "Measured", subtitle, WIDTH, 0.7)


def _blank(like: figures.Panel) -> figures.Panel:
    return figures.Panel(np.full_like(like.picture, 255), "")


def _first(result: Explanation) -> Explanation:
    """The first target of each image alone."""
    if count_per_image(result.targets) is None:
        return result
    targets = result.targets[:, 0] if isinstance(result.targets, Tensor) else [row[0] for row in result.targets]
    return replace(result, heatmap=result.heatmap[:, 0], targets=targets)


def _title(method: str) -> str:
    return METHODS[method].__name__ if method in METHODS else method


def _array(picture: Tensor) -> np.ndarray:
    return picture.cpu().numpy()
