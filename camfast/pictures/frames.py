"""Frames: pictures as uint8 RGB tensors ``[N, H, W, 3]`` and back, and heat drawn over them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import require
from ..ops.colormaps import ALPHA, COLORMAP
from .photos import to_rgb

__all__ = ["Box", "as_frames", "draw", "png_bytes", "rgb_frames", "seen"]

LINE = 235  # the grey of the line around what a network saw

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of a picture, in its pixels."""


def rgb_frames(frames: Any) -> Tensor:
    """``frames`` as a tensor, looked at where they are in memory wherever possible.

    Args:
        frames: RGB, uint8 ``[H, W, 3]`` or ``[N, H, W, 3]`` (tensor or array), or a PIL image of any mode.

    Returns:
        uint8 of that shape. Arrays that are mirrored or read-only are copied, others share their memory.

    Raises:
        TypeError: other dtypes, or anything else.
        ValueError: other shapes, or nothing in them.
    """
    if hasattr(frames, "convert"):  # a PIL image
        frames = np.array(to_rgb(frames))
    if isinstance(frames, np.ndarray) and frames.dtype == np.uint8:
        usable = frames.flags.writeable and all(step >= 0 for step in frames.strides)
        frames = torch.from_numpy(frames if usable else frames.copy())
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        got = getattr(frames, "dtype", None) or type(frames).__name__
        raise TypeError(f"frames must be uint8 RGB pictures, a tensor, an array or a PIL image, got {got}")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must have shape [H, W, 3] or [N, H, W, 3], RGB, got {list(frames.shape)}")
    return frames


def as_frames(frames: Any, count: int, device: torch.device) -> Tensor:
    """One frame for each of ``count`` heatmaps.

    Args:
        frames: what :func:`rgb_frames` takes, a list of ``count`` of these, all of one size, or a float image tensor
            ``[count, C, H, W]``, whose images are stretched to their own range.
        count: how many frames there must be.
        device: where they are wanted.

    Returns:
        uint8 ``[count, H, W, 3]`` on ``device``, RGB.

    Raises:
        TypeError: frames of other dtypes, or anything else.
        ValueError: shapes and counts that do not fit.
    """
    if isinstance(frames, Tensor) and frames.is_floating_point():
        frames = _stretched(frames)
    elif isinstance(frames, (list, tuple)):
        pictures = [rgb_frames(frame) for frame in frames]
        sizes = {tuple(picture.shape) for picture in pictures}
        if len(sizes) != 1:
            raise ValueError(
                f"frames of one call must have one size, got {len(sizes)} sizes; draw them one by one: "
                "result[i].overlay(frame)"
            )
        frames = torch.stack(pictures)
    else:
        frames = rgb_frames(frames)
    if frames.ndim == 3:
        frames = frames.unsqueeze(0)
    if frames.ndim != 4 or len(frames) != count:
        raise ValueError(f"frames must have shape [{count}, H, W, 3], RGB, got {list(frames.shape)}")
    return frames.to(device)


def _stretched(images: Tensor) -> Tensor:
    """Float ``[N, C, H, W]`` as RGB frames: each image from its own minimum, black, to its own maximum, white."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape [N, C, H, W] to be drawn, got {list(images.shape)}; pass frames=")
    values = images.detach().float()
    if values.shape[1] != 3:
        values = values.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    values = values.nan_to_num(0, 0, 0)
    low = values.amin((1, 2, 3), keepdim=True)
    span = (values.amax((1, 2, 3), keepdim=True) - low).clamp(min=1e-12)
    return ((values - low) / span * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def png_bytes(picture: Tensor) -> bytes:
    """uint8 ``[H, W, 3]`` as a PNG file's content. Needs Pillow."""
    image = require("PIL.Image", "vision")
    buffer = io.BytesIO()
    image.fromarray(picture.cpu().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def draw(frames: Tensor, heat: Tensor, box: Box, colormap: str | Tensor = COLORMAP, alpha: float = ALPHA) -> Tensor:
    """``heat`` ``[N, h, w]`` in colour over the part of ``frames``, uint8 ``[N, H, W, 3]``, inside ``box``.

    ``box`` is ``(left, top, right, bottom)`` in pixels, edges not centres, rounded to whole ones; it may reach beyond the
    frame. What lies outside, which the network did not see, is as dark as what is cold, and grey, behind a line: where the
    heat ends it was cut off. With ``alpha=0`` the frame stays as it is.

    Args:
        frames: uint8 ``[N, H, W, 3]``, RGB.
        heat: ``[N, h, w]`` in [0, 1], of any size.
        box: what the heat covers.
        colormap: as in :func:`camfast.ops.overlay`.
        alpha: the heat's share, 0 to 1.

    Returns:
        uint8 of the shape of ``frames``.
    """
    H, W = frames.shape[1:3]
    left, top = round(box[0]), round(box[1])
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    if (left, top, right, bottom) == (0, 0, W, H):
        return ops.overlay(frames, heat, colormap, alpha)
    if top < 0 or left < 0 or bottom > H or right > W:  # a margin around the frame: the heat in it is cut off
        heat = ops.resize_normalize(heat, (bottom - top, right - left), normalize=False)
        heat = heat[:, max(-top, 0) : H - top, max(-left, 0) : W - left]
    left, top, right, bottom = seen(box, H, W)
    result = frames.clone()
    if alpha:
        for part in (result[:, :top], result[:, bottom:], result[:, top:bottom, :left], result[:, top:bottom, right:]):
            part.copy_(_dimmed(part, alpha))
        line = max(1, round(min(H, W) / 300))
        result[:, max(top - line, 0) : bottom + line, max(left - line, 0) : right + line] = LINE
    inside = frames[:, top:bottom, left:right].contiguous()
    result[:, top:bottom, left:right] = ops.overlay(inside, heat, colormap, alpha)
    return result


def seen(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """``box`` in whole pixels, the part of it inside a frame of this size: ``(left, top, right, bottom)``."""
    left, top = round(box[0]), round(box[1])
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _dimmed(part: Tensor, alpha: float) -> Tensor:
    """What the network did not see, as dark as cold heat makes it and with less colour."""
    values = part.to(torch.float32)
    grey = values.mean(-1, keepdim=True)
    return ((1 - alpha) * ((1 - alpha) * values + alpha * grey)).to(torch.uint8)
