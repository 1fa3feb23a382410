"""An explanation as one labelled figure: rows of images, columns of targets, names, scores, and what the colours mean."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..pictures import figures
from ..pictures.frames import as_frames
from ..pictures.strips import enlarged, strip
from ..targets import Logit, value_of
from .chosen import count_per_image
from .ranges import in_range
from .reading import Reader

if TYPE_CHECKING:
    from PIL import Image

    from .explanation import Explanation

__all__ = ["colours_of", "figure_of", "score_of", "score_text"]

SIDES = ((2, 448), (6, 320), (400, 224))  # up to so many columns, the pixels of a panel's side
PANELS = 400  # of one figure


def figure_of(result: Explanation, frames: Any, colormap: str | Tensor, alpha: float, title: str | None) -> Image.Image:
    """The figure; see :meth:`camfast.Explanation.figure`."""
    many = count_per_image(result.targets)
    columns = 1 if many is None else many
    if len(result) * (columns + 1) > PANELS:
        raise ValueError(
            f"expected a figure of at most {PANELS} panels, got {len(result)} images with {columns} targets each; draw a "
            f"part, such as result[:{max(1, PANELS // (columns + 1))}].figure()"
        )
    frames = as_frames(result.images if frames is None else frames, len(result), result.heatmap.device)
    result, ends, words = colours_of(result)
    beside = (
        1 if many is not None else math.ceil((len(result) / 2) ** 0.5)
    )  # pairs of image and heat, not a tower of them
    across = beside * (columns + 1)
    cell = next(side for most, side in SIDES if across <= most)
    shown = enlarged(frames, cell)
    overlays = result.overlay(shown, colormap, alpha)
    overlays = overlays if many is not None else overlays[:, None]
    panels = []
    for i in range(len(result)):
        size = f"{frames.shape[2]} x {frames.shape[1]} pixels"
        panels.append(figures.Panel(_array(shown[i]), f"image {i}", _best(result, i) or size))
        for k in range(columns):
            target = None if many is None else k
            panels.append(figures.Panel(_array(overlays[i, k]), result.label(i, target), score_text(result, i, target)))
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    unit = cell / 400
    width = round(80 * unit + across * cell + 28 * unit * (across - 1))
    foot = partial(_foot, colormap=colormap, ends=ends, words=words)
    by = f"{_class_of(result.method)} at {', '.join(result.layers)}" if result.layers else _class_of(result.method)
    title, subtitle = (by, _of_scores(result)) if title is None else (title, f"{by}; {_of_scores(result)}")
    return figures.compose(rows, title, subtitle.strip("; "), width, unit, foot)


def colours_of(result: Explanation) -> tuple[Explanation, tuple[str, str], str]:
    """The explanation to be drawn, what its coldest and its hottest colour stand for, and a sentence that says so.

    Raw maps are drawn by one range.
    """
    if result.scale == "each":
        one = result.heatmap.numel() == math.prod(result.heatmap.shape[-2:])
        words = "heat from the map's least to its greatest value" if one else "heat: each map by its own range"
        return result, ("least", "greatest"), words
    if result.scale == "raw":
        heat, limits = in_range(result.heatmap, 2, "shared")
        result = replace(result, heatmap=heat, scale=limits)
    assert not isinstance(result.scale, str)
    low, high = result.scale
    return result, (f"{low:.3g}", f"{high:.3g}"), "heat in raw values, one scale for all maps"


def score_of(result: Explanation, image: int, target: int | None = None) -> tuple[float, bool] | None:
    """What the model gave for what is explained, and whether it is a probability; None where it cannot be told.

    Of a classifier's class its probability: the softmax of the scores, or the score itself where they are probabilities.
    """
    scores, row = result.scores, image % len(result) // result.images_per_row
    if scores.ndim < 2 and not scores.ndim:
        return None
    explained = result.targets[row]
    if target is not None:
        explained = explained[target]
    own = scores[row].detach().float()
    if isinstance(explained, Logit) and isinstance(explained.category, int):
        explained = torch.tensor(explained.category)
    if isinstance(explained, Tensor):
        if own.ndim == 0:
            return float(own), False
        if own.ndim > 1 or not 0 <= int(explained) < len(own):
            return None
        if len(own) == 1:
            return float(own[0]), False
        certain = bool((own >= 0).all()) and abs(float(own.sum()) - 1) < 1e-3
        return float((own if certain else own.softmax(0))[explained]), True
    try:
        return float(value_of(Reader(names=result.class_names).bound(explained), own)), False
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError):
        return None  # what is made of more than the scores, such as boxes


def score_text(result: Explanation, image: int, target: int | None = None) -> str:
    """The score in a few letters, "65.1 %" or "3.21"; empty where it cannot be told."""
    found = score_of(result, image, target)
    if found is None or not math.isfinite(found[0]):
        return ""
    return f"{found[0]:.1%}" if found[1] else f"{found[0]:.3g}"


def _best(result: Explanation, image: int) -> str:
    """A classifier's best class and its score; empty for what is none."""
    row = image // result.images_per_row
    if result.scores.ndim != 2 or result.scores.shape[1] < 2 or not bool(result.scores[row].isfinite().all()):
        return ""
    top = replace(result, targets=result.scores.argmax(1, keepdim=True))
    return f"best: {top.label(image, 0)} {score_text(top, image, 0)}"


def _of_scores(result: Explanation) -> str:
    """What the numbers below the pictures are."""
    many = count_per_image(result.targets)
    targets = [None] if many is None else list(range(many))
    kinds = {found[1] for k in targets if len(result) and (found := score_of(result, 0, k)) is not None}
    words = {True: "percentages: softmax of the scores", False: "numbers: values of the target"}
    return "; ".join(words[kind] for kind in sorted(kinds, reverse=True))


def _foot(
    width: int, size: float, margin: int, *, colormap: str | Tensor, ends: tuple[str, str], words: str
) -> np.ndarray:
    return strip(width, size, colormap, ends, [words], margin=margin)


def _class_of(method: str) -> str:
    from .registry import METHODS

    return METHODS[method].__name__ if method in METHODS else method


def _array(picture: Tensor) -> np.ndarray:
    return picture.to(torch.uint8).cpu().numpy()
