"""Frames as a network's input, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .arguments import check_dense, full_size, kind_of
from .registration import call, register

__all__ = ["preprocess"]


def preprocess(
    frames: Tensor,
    size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    *,
    box: Sequence[float] | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Frames as a network's input: resized with antialiasing, scaled, normalised and laid out in one pass.

    Args:
        frames: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB.
        size: the input's size, an int or ``(height, width)``.
        mean: three numbers, for values in [0, 1].
        std: three numbers, none of them 0.
        dtype: float32, float16 or bfloat16.
        box: ``(left, top, right, bottom)``, the part of the frame that becomes the input, in pixels (edges, not
            centres), as a resize followed by a cut chooses it; what lies beyond the frame is black. None: the whole.
        channels_last: the result's memory layout; False is contiguous.

    Returns:
        ``[N, 3, height, width]`` (``[3, height, width]`` for one frame): torchvision's antialiased bilinear resize,
        without its rounding to whole levels in between.

    Raises:
        ValueError: shapes, numbers or a box that do not fit.
        TypeError: other dtypes.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        raise TypeError(f"frames must be a uint8 tensor, got {kind_of(frames)}")
    check_dense(frames, "frames")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape[-3:]:
        raise ValueError(f"frames must have shape [N, H, W, 3] or [H, W, 3], got {list(frames.shape)}")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
    full = full_size(size, frames.shape[-3:-1])
    mean, std = _numbers(mean, "mean"), _numbers(std, "std")
    if len(mean) != 3 or len(std) != 3 or 0.0 in std:
        raise ValueError(f"mean and std must be three numbers each, std not 0, got {mean} and {std}")
    if box is not None:
        box = _numbers(box, "box")
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]) or not all(map(math.isfinite, box)):
            raise ValueError(f"box must be (left, top, right, bottom), finite and not empty, got {box}")
    batch = frames if frames.ndim == 4 else frames[None]
    images = call(torch.ops.camfast.preprocess.default, batch, full, mean, std, dtype, box, channels_last)
    return images if frames.ndim == 4 else images[0]


def _numbers(values: Sequence[float], name: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from None


def _fake(frames, size, mean, std, dtype=torch.float32, box=None, channels_last=False):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(frames.shape[0], 3, *size, dtype=dtype, device=frames.device, memory_format=layout)


def _fallback(frames, size, mean, std, dtype=torch.float32, box=None, channels_last=False):
    return reference.preprocess(frames, size, mean, std, dtype, box, channels_last)


register("preprocess", _fake, _fallback)
