"""From maps of a detector's levels to one heatmap a box.

At each level the method's own rule makes a map of activations and gradients, of which what is positive counts. The levels
become one map by one of two rules:

    "sum"   the maps, brought to the finest level, are added: a level counts by how much it gave
    "max"   each map is scaled to its own maximum first, then the greatest value counts: every level is seen, however
            little it gave (what ultralytics draws)

A level that a box does not depend on adds nothing. The result is divided by its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import ops
from .inputs import Place

__all__ = ["Fuse", "Size", "heat_of"]

Fuse = Literal["sum", "max"]

Size = int | Sequence[int] | Literal["map"] | None


def heat_of(maps: Sequence[Tensor], place: Place, canvas: tuple[int, int], fuse: Fuse, size: Size = None) -> Tensor:
    """One heatmap a box, ``[D, H, W]`` in [0, 1].

    Args:
        maps: of each level ``[D, h, w]``, not negative.
        place: where the image lies on the maps.
        canvas: height and width of what the maps cover, in pixels.
        fuse: how the levels become one.
        size: of the result: None for the image's, ``"map"`` for the finest level's own, or height and width.
    """
    finest = max((tuple(level.shape[1:]) for level in maps), key=lambda shape: shape[0] * shape[1])
    whole = place.part is None or place.part == (0, 0, *canvas)
    if fuse == "max":
        full = finest if size == "map" and whole else canvas
        fused = torch.stack([_to_one(_resized(level, full)) for level in maps]).amax(0)
    else:
        together = torch.stack([_resized(level, finest) for level in maps]).sum(0)
        fused = _to_one(together)  # small still, where it is cheap to look for a maximum
    if not whole:
        assert place.part is not None
        top, left, bottom, right = place.part
        fused = _to_one(_resized(fused, canvas)[:, top:bottom, left:right])
        if size == "map":
            down, across = finest[0] / canvas[0], finest[1] / canvas[1]
            size = (max(1, round((bottom - top) * down)), max(1, round((right - left) * across)))
    return _resized(fused, _full(size, tuple(fused.shape[1:]), place.size))


def _full(size: Size, own: tuple[int, ...], image: tuple[int, int]) -> tuple[int, ...]:
    if size is None:
        return image
    if size == "map":
        return own
    if isinstance(size, int):
        return (size, size)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f"size must be None, 'map', an int or height and width, got {size!r}")
    return tuple(size)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    return ops.resize_normalize(maps.contiguous(), size, normalize=False)


def _to_one(maps: Tensor) -> Tensor:
    """``maps`` ``[D, h, w]``, not negative, each divided by its maximum; a map of zeros stays."""
    if maps.numel() == 0:
        return maps
    most = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(most > 0, most, 1)
