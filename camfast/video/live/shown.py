"""What viewers are shown of an explained frame: a JPEG, and what is told beside it."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import require
from ..realtime import RealtimeResult

__all__ = ["Shown", "counted", "doubt", "jpeg"]

_QUALITY = 82  # of the JPEGs


@dataclass(frozen=True)
class Shown:
    """What viewers are shown: a picture, and what is told beside it."""

    number: int
    jpeg: bytes
    facts: dict[str, Any]


def counted(result: RealtimeResult) -> list[tuple[str, float]]:
    """The classes of the boxes, with their numbers where there are several of one, and the best score of each."""
    counts = Counter(name for name, _ in result.labels())
    best = {name: score for name, score in reversed(result.labels())}  # the surest comes first
    return [(name if counts[name] == 1 else f"{name} \u00d7 {counts[name]}", best[name]) for name in counts]


def doubt(result: RealtimeResult) -> str:
    """Why the heat says nothing, where it does not: a page of even colour would look as if it did."""
    if result.found is not None and not result.labels():
        return "No box of these classes with this score or more."
    top = result.heatmap.float().amax().item()  # of several classes, one that shows something is enough
    if top > 0:
        return ""
    names = ", ".join(name for name, _ in result.labels())
    if top == 0:
        return f"No heat: nothing at this layer speaks for {names} here. Another layer, method or class may show something."
    return "No heat: the network's values are not finite."


def jpeg(overlay: np.ndarray) -> bytes:
    """``overlay``, ``[H, W, 3]`` or ``[K, H, W, 3]`` side by side, as a JPEG."""
    require("PIL", "vision")
    from PIL import Image

    if overlay.ndim == 4:
        overlay = np.concatenate(list(overlay), 1)
    data = io.BytesIO()
    Image.fromarray(overlay).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
