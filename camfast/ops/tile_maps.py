"""Maps side by side in one picture, in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference
from .arguments import check_floating
from .colormaps import table
from .registration import register

__all__ = ["tile_maps"]


def tile_maps(
    maps: Tensor,
    columns: int | None = None,
    pad: int | tuple[int, int] = 2,
    colormap: str | Tensor = "gray",
    limits: tuple[float, float] | Tensor | None = None,
    scale: int = 1,
    background: int = 255,
) -> Tensor:
    """Maps side by side in one picture: each map's range, its colours and its place, in one pass.

    Args:
        maps: floating ``[M, h, w]``.
        columns: tiles per row; None makes as many rows as columns.
        pad: the gap around every tile, in pixels, or ``(between rows, between columns)``.
        colormap: as in :func:`overlay`.
        limits: ``(low, high)`` for all maps, or a tensor of these two; None: each map's least and greatest finite value.
        scale: pixels per value, in both directions.
        background: the grey of the gaps, 0 to 255; NaN shows it too.

    Returns:
        uint8 ``[rows * (h * scale + pad) + pad, columns * (w * scale + pad) + pad, 3]``, RGB.

    Raises:
        ValueError: shapes, numbers or an unknown colormap that do not fit.
        TypeError: other dtypes.
    """
    check_floating(maps, "maps")
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must have shape [M, h, w] and not be empty, got {list(maps.shape)}")
    if columns is None:
        columns = math.isqrt(maps.shape[0] - 1) + 1
    pad_y, pad_x = (pad, pad) if isinstance(pad, int) else pad
    if columns < 1 or scale < 1 or pad_y < 0 or pad_x < 0:
        raise ValueError(f"columns and scale must be positive and pad not negative, got {columns}, {scale} and {pad}")
    if not 0 <= background <= 255:
        raise ValueError(f"background must be between 0 and 255, got {background}")
    if limits is not None and not isinstance(limits, Tensor):
        limits = torch.tensor(limits, dtype=torch.float32, device=maps.device)
    if limits is not None:
        if limits.shape != (2,):
            raise ValueError(f"limits must be two numbers, low and high, got shape {list(limits.shape)}")
        limits = limits.detach().to(maps.device, torch.float32)
    maps = maps.detach()
    if maps.dtype == torch.float64:
        maps = maps.float()
    colors = table(colormap, maps.device)
    return torch.ops.camfast.tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background)


def _fake(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    M, h, w = maps.shape
    rows = (M + columns - 1) // columns
    return colors.new_empty((rows * (h * scale + pad_y) + pad_y, columns * (w * scale + pad_x) + pad_x, 3))


def _fallback(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    return reference.tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background).contiguous()


register("tile_maps", _fake, _fallback)
