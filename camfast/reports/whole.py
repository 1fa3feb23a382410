"""Heat over a whole photograph, for tools that lay a map over all of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .. import ops
from ..dataset.maps import map_of

__all__ = ["heat_on_photo"]


def heat_on_photo(row: Mapping[str, Any], side: int | None = None) -> np.ndarray:
    """The heat of a run's row over its whole photograph: a map covers what the network saw, often a part.

    Args:
        row: a row of :func:`camfast.read_maps` or of the shards themselves.
        side: pixels of the longer side; None: as large as the photograph.

    Returns:
        float32 ``[H, W]`` in [0, 1], 0 where the network did not look.

    Raises:
        ValueError: a ``side`` below 1.
    """
    if side is not None and side < 1:
        raise ValueError(f"side must be 1 or more, got {side}")
    height, width = int(row["height"]), int(row["width"])
    scale = 1.0 if side is None else side / max(height, width)
    whole = torch.zeros(max(1, round(height * scale)), max(1, round(width * scale)))
    crop = (0, 0, width, height) if row["crop"] is None else row["crop"]
    left, top, right, bottom = (round(float(edge) * scale) for edge in crop)
    heat = row["map"] if isinstance(row["map"], torch.Tensor) else map_of(row)
    size = (max(1, bottom - top), max(1, right - left))
    large = ops.resize_normalize(heat[None].float().cpu(), size, normalize=False)[0]
    shown = large[max(0, -top) : whole.shape[0] - top, max(0, -left) : whole.shape[1] - left]
    above, before = max(0, top), max(0, left)
    whole[above : above + shown.shape[0], before : before + shown.shape[1]] = shown
    return whole.numpy()
