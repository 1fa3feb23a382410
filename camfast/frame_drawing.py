"""Frames as they are given, and heat on the part of them that the network saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops

__all__ = ["Box", "as_frames", "draw"]

Box = tuple[float, float, float, float]


def draw(frames: Tensor, heat: Tensor, box: Box, colormap: str | Tensor = "jet", alpha: float = 0.5) -> Tensor:
    """``heat`` ``[N, h, w]`` in colour over the part of ``frames``, uint8 ``[N, H, W, 3]``, inside ``box``.

    ``box`` is ``(left, top, right, bottom)`` in pixels, edges not centres, rounded to whole ones; it may reach beyond the
    frame. What lies outside, which the network did not see, stays as it is. Returns uint8 of the shape of ``frames``.
    """
    H, W = frames.shape[1:3]
    left, top = round(box[0]), round(box[1])
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    if (left, top, right, bottom) == (0, 0, W, H):
        return ops.overlay(frames, heat, colormap, alpha)
    rows, columns = slice(max(top, 0), min(bottom, H)), slice(max(left, 0), min(right, W))
    if top < 0 or left < 0 or bottom > H or right > W:  # a margin around the frame: the heat in it is cut off
        heat = ops.resize_normalize(heat, (bottom - top, right - left), normalize=False)
        heat = heat[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if columns == slice(0, W) and len(frames) == 1:  # a band across the frame is one piece of memory
        middle = ops.overlay(frames[:, rows], heat, colormap, alpha)
        return torch.cat([frames[:, : rows.start], middle, frames[:, rows.stop :]], 1)
    result = frames.clone()
    result[:, rows, columns] = ops.overlay(frames[:, rows, columns].contiguous(), heat, colormap, alpha)
    return result


def as_frames(frames: Any) -> Tensor:
    """``frames``, RGB, a tensor or array of uint8 ``[H, W, 3]`` or ``[N, H, W, 3]``, as a tensor; not copied where possible.

    Raises ``TypeError`` and ``ValueError`` for anything else.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8:
            raise TypeError(f"frames must be uint8, got {frames.dtype}")
        # Mirrored and read-only arrays are copied; others are looked at where they are.
        usable = frames.flags.writeable and all(step >= 0 for step in frames.strides)
        frames = torch.from_numpy(frames if usable else frames.copy())
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        got = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise TypeError(f"frames must be a uint8 tensor or array, got {got}")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must have shape [H, W, 3] or [N, H, W, 3], RGB, got {list(frames.shape)}")
    return frames
