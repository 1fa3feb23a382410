"""Maps side by side in one picture: as a tensor, a PNG or a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..brief import Brief
from ..errors import require
from . import photos
from .frames import png_bytes
from .text import write_line

__all__ = ["Grid", "Normalize", "grid", "pictures_of"]

Normalize = Literal["each", "all"] | tuple[float, float]

_LABEL = 11  # pixels: the height of a label's letters with the space around them


@dataclass(frozen=True, repr=False)
class Grid(Brief):
    """A grid of maps; ``tensor`` is the picture, uint8 ``[H, W, 3]``, RGB, on the maps' device."""

    tensor: Tensor
    rows: int
    columns: int

    @property
    def shape(self) -> torch.Size:
        """The picture's shape, ``[H, W, 3]``."""
        return self.tensor.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.tensor.cpu().numpy(), dtype)

    def png(self) -> bytes:
        """The picture as a PNG file's content. Needs Pillow."""
        return png_bytes(self.tensor)

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes the picture in the format of the file's suffix, whole or not at all. Needs Pillow."""
        return photos.write(np.asarray(self), path)

    def figure(self, width: float = 6.0) -> Any:
        """The picture as a matplotlib ``Figure``, ``width`` inches wide, without axes. Needs matplotlib."""
        require("matplotlib", "bench")
        from matplotlib.figure import Figure

        height, across = self.tensor.shape[:2]
        figure = Figure(figsize=(width, width * height / across), dpi=max(across / width, 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(np.asarray(self), interpolation="nearest")
        axes.set_axis_off()
        return figure

    def _repr_png_(self) -> bytes:
        return self.png()


def grid(
    maps: Tensor | np.ndarray | Sequence[Any],
    columns: int | None = None,
    normalize: Normalize = "each",
    colormap: str | Tensor | None = None,
    *,
    labels: bool | Sequence[str] | None = None,
    pad: int = 2,
    scale: int = 1,
    background: int = 255,
) -> Grid:
    """``maps`` side by side, row by row, in as many rows as columns unless told otherwise.

    Args:
        maps: ``[M, h, w]``, ``[h, w]``, or ``[N, C, h, w]`` (all N * C of them), tensor or array; or a sequence of
            ``[h, w]`` of one size.
        columns: tiles per row; None: the square root of their number, rounded up.
        normalize: ``"each"``: a map's own range; ``"all"``: the range of all of them; ``(low, high)``: this one.
        colormap: a name or table as in :func:`camfast.ops.overlay`; None: grey.
        labels: one text per map, written above it, or True for their numbers. Needs Pillow.
        pad: the gap around every tile, in pixels.
        scale: pixels per value, in both directions.
        background: the grey of the gaps, 0 to 255.

    Returns:
        The picture, uint8 ``[H, W, 3]`` in ``tensor``, with its numbers of rows and columns.

    Raises:
        ValueError: shapes, numbers, colormaps or labels that do not fit.
        TypeError: maps that are not made of real numbers.
        ImportError: labels need Pillow, which is missing.
    """
    stack = _stacked(maps)
    count, height = len(stack), stack.shape[1]
    columns = math.isqrt(count - 1) + 1 if columns is None else columns
    texts = [str(i) for i in range(count)] if labels is True else list(labels or ())
    if texts and len(texts) != count:
        raise ValueError(f"labels must be one text for each of {count} maps, got {len(texts)}")
    pad_y = pad + _LABEL if texts else pad
    limits = _limits(stack, normalize)
    picture = ops.tile_maps(stack, columns, (pad_y, pad), colormap or "gray", limits, scale, background)
    if texts:
        picture = _labelled(picture, texts, columns, (height * scale, stack.shape[2] * scale), (pad_y, pad), background)
    return Grid(picture, -(-count // columns), columns)


def pictures_of(maps: Tensor) -> Tensor:
    """One image's maps ``[C, *map]`` as pictures ``[M, h, w]``.

    Maps ``[C, h, w]`` are pictures already. One-dimensional ones ``[C, L]`` make one picture with the channels as rows;
    of volumes ``[C, d, h, w]`` the middle slice is taken.
    """
    if maps.ndim == 2:
        return maps.unsqueeze(0)
    if maps.ndim == 4:
        return maps[:, maps.shape[1] // 2]
    if maps.ndim != 3:
        raise ValueError(f"expected the maps of one image, [C, *map] of 1 to 3 dimensions, got {list(maps.shape)}")
    return maps


def _stacked(maps: Any) -> Tensor:
    if isinstance(maps, (list, tuple)):
        tensors = [torch.as_tensor(one) for one in maps]
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) != 1:
            raise ValueError(f"maps of one grid must have one size, got {sorted(shapes) or 'no maps'}")
        maps = torch.stack(tensors)
    elif not isinstance(maps, (Tensor, np.ndarray)):
        raise TypeError(f"maps must be a tensor, an array or a sequence of these, got {type(maps).__name__}")
    maps = torch.as_tensor(maps).detach()
    if maps.is_complex():
        raise TypeError(f"maps must be real numbers, got {maps.dtype}")
    if maps.ndim not in (2, 3, 4) or maps.numel() == 0:
        raise ValueError(f"maps must be [M, h, w], [h, w] or [N, C, h, w], and not empty, got {list(maps.shape)}")
    if not maps.is_floating_point():
        maps = maps.float()
    return maps.reshape(-1, *maps.shape[-2:])


def _limits(stack: Tensor, normalize: Normalize) -> Tensor | tuple[float, float] | None:
    if isinstance(normalize, str):
        if normalize == "each":
            return None
        if normalize == "all":
            finite = stack.isfinite()
            low = torch.where(finite, stack, torch.inf).amin()
            return torch.stack([low, torch.where(finite, stack, -torch.inf).amax()])
    elif len(normalize) == 2 and float(normalize[0]) < float(normalize[1]):
        return float(normalize[0]), float(normalize[1])
    raise ValueError(f"normalize must be 'each', 'all' or (low, high) with low below high, got {normalize!r}")


def _labelled(
    picture: Tensor, texts: list[str], columns: int, tile: tuple[int, int], pad: tuple[int, int], background: int
) -> Tensor:
    """``picture`` with each text in the gap above its tile, cut to the tile's width."""
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    page = Image.fromarray(picture.cpu().numpy())
    draw = ImageDraw.Draw(page)
    ink = (0, 0, 0) if background >= 128 else (255, 255, 255)
    for number, text in enumerate(texts):
        row, column = divmod(number, columns)
        left = pad[1] + column * (tile[1] + pad[1])
        bottom = pad[0] + row * (tile[0] + pad[0])
        write_line(draw, (left, bottom - 1), text, _LABEL - 2, ink, tile[1], anchor="ld", ellipsis="")
    return torch.from_numpy(np.array(page)).to(picture.device)
