"""Text on frames: class names with their scores, a frames-per-second figure; and several classes side by side.

A line of text is drawn once, by Pillow, and kept; on each frame it costs the copy of a small rectangle.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import require

__all__ = ["legend", "side_by_side", "text"]

SHADE = 0.35  # share of the frame that shines through behind a text


def side_by_side(overlays: Tensor) -> Tensor:
    """``[K, H, W, 3]`` as one picture ``[H, K * W, 3]``, ``[N, K, H, W, 3]`` as ``[N, H, K * W, 3]``."""
    if overlays.ndim not in (4, 5):
        raise ValueError(f"overlays must have shape [K, H, W, 3] or [N, K, H, W, 3], got {list(overlays.shape)}")
    return overlays.movedim(-4, -3).flatten(-3, -2)


def legend(frame: Tensor, labels: Sequence[tuple[str, float]], fps: float | None = None, top: bool = False) -> Tensor:
    """Writes ``labels``, names with probabilities, into the lower left corner of ``frame`` (uint8 ``[H, W, 3]``), in place.

    ``top`` takes the upper left corner; ``fps`` goes into the upper right one. The text's height follows the frame's, and
    what does not fit is cut off. Needs Pillow: ``pip install "camfast[vision]"``. Returns ``frame``.
    """
    height = max(10, frame.shape[0] // 28)
    lines = [name if np.isnan(value) else f"{name}  {value:.0%}" for name, value in labels]
    y = 0 if top else frame.shape[0] - _line_height(height) * len(lines)
    for line in lines:
        text(frame, line, 0, y, height)
        y += _line_height(height)
    if fps is not None:
        line = f"{fps:.0f} fps"
        text(frame, line, frame.shape[1] - _rendered(line, height).shape[1], 0, height)
    return frame


def text(frame: Tensor, line: str, x: int, y: int, height: int) -> None:
    """Draws ``line`` in white on a darkened ground into ``frame`` (uint8 ``[H, W, 3]``), its corner at ``(x, y)``."""
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
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=height)
    margin = height // 4
    rows = int(height * 1.3) + 2 * margin
    columns = int(font.getlength(line)) + 2 * margin + 1
    picture = Image.new("L", (columns, rows))
    ImageDraw.Draw(picture).text((margin, margin), line, fill=255, font=font)
    return np.array(picture)
