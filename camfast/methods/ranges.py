"""How heat is scaled: each map by its own range, or all of them by one, so that they can be compared."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Normalize", "Scale", "check_normalize", "in_range"]

Normalize = bool | Literal["shared"] | tuple[float, float]
"""True: each map from 0 to 1 by its own range; False: raw; ``"shared"`` or ``(low, high)``: all maps by one range."""

Scale = Literal["each", "raw"] | tuple[float, float]
"""What a heatmap's values are: from 0 to 1 by each map's own range, raw, or from 0 at one raw value to 1 at another."""


def check_normalize(normalize: Any) -> None:
    """Raises ``ValueError`` for what is no :data:`Normalize`."""
    known = isinstance(normalize, bool) or (isinstance(normalize, str) and normalize == "shared")
    pair = isinstance(normalize, (tuple, list)) and len(normalize) == 2
    finite = pair and all(isinstance(end, (int, float)) and math.isfinite(end) for end in normalize)
    if known or (finite and normalize[0] < normalize[1]):
        return
    raise ValueError(f"normalize must be True, False, 'shared' or (low, high) with low below high, got {normalize!r}")


def in_range(raw: Tensor, rank: int, normalize: Normalize) -> tuple[Tensor, tuple[float, float]]:
    """Raw maps in one range, from 0 to 1, and the raw values that became 0 and 1.

    Args:
        raw: ``[..., *size]``. A map that is not finite everywhere becomes NaN, and counts for no range.
        rank: how many dimensions a map has.
        normalize: ``"shared"`` cuts negative values off and takes the least and the greatest of what is left, in all
            maps together; ``(low, high)`` is the range itself, and what lies beyond it is cut off.
    """
    finite_maps = raw.isfinite().flatten(-rank).all(-1)
    if normalize == "shared":
        raw = raw.clamp(min=0)
        finite = raw[finite_maps]
        low, high = torch.stack(torch.aminmax(finite)).tolist() if finite.numel() else (0.0, 0.0)
    else:
        assert not isinstance(normalize, (bool, str))
        low, high = map(float, normalize)
    span = high - low
    heat = ((raw - low) / (span if span > 0 else 1.0)).clamp(0, 1)
    return heat.where(finite_maps.reshape(*finite_maps.shape, *(1,) * rank), torch.nan), (low, high)
