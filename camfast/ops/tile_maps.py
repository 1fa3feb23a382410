"""Maps side by side in one picture, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .arguments import LARGEST, check_floating, whole
from .colormaps import table
from .registration import call, register

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
    # The root is exact where it is whole: floats hold the square of every number of columns that a picture has room for.
    columns = math.ceil(torch.sym_sqrt(maps.shape[0])) if columns is None else whole(columns, "columns")
    gaps = tuple(pad) if isinstance(pad, Sequence) else (pad, pad)
    if len(gaps) != 2:
        raise ValueError(f"pad must be an int or (between rows, between columns), got {pad!r}")
    pad_y, pad_x = (whole(gap, "pad") for gap in gaps)
    scale, background = whole(scale, "scale"), whole(background, "background")
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
    if not torch.compiler.is_compiling():
        _check_picture(maps.shape, columns, pad_y, pad_x, scale)
    maps = maps.detach()
    if maps.dtype == torch.float64:
        maps = maps.float()
    colors = table(colormap, maps.device)
    return call(torch.ops.camfast.tile_maps.default, maps, colors, columns, pad_y, pad_x, scale, limits, background)


def _check_picture(shape: Sequence[int], columns: int, pad_y: int, pad_x: int, scale: int) -> None:
    """Raises ``ValueError`` for a picture that is larger than a kernel can count."""
    M, h, w = shape
    height, width = -(-M // columns) * (h * scale + pad_y) + pad_y, columns * (w * scale + pad_x) + pad_x
    if max(height, 3 * width, columns, scale, pad_y, pad_x) > LARGEST:
        raise ValueError(
            f"the picture must have at most {LARGEST} rows and {LARGEST // 3} columns of pixels, got {height} and {width}"
        )


def _fake(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    M, h, w = maps.shape
    rows = (M + columns - 1) // columns
    return colors.new_empty((rows * (h * scale + pad_y) + pad_y, columns * (w * scale + pad_x) + pad_x, 3))


def _fallback(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    return reference.tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background).contiguous()


register("tile_maps", _fake, _fallback)
