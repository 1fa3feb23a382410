"""Heat in colour over frames, in one pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import reference
from .arguments import check_dense, check_floating, kind_of
from .colormaps import ALPHA, COLORMAP, table
from .registration import call, register

__all__ = ["overlay"]


def overlay(frames: Tensor, heatmap: Tensor, colormap: str | Tensor = COLORMAP, alpha: float = ALPHA) -> Tensor:
    """``heatmap`` in colour over ``frames``: resized to them, looked up and blended in one pass.

    Args:
        frames: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB.
        heatmap: floating ``[N, h, w]`` or ``[h, w]`` in [0, 1], of any size; NaN leaves the frame as it is.
        colormap: a name of :func:`camfast.colormaps.names`, a matplotlib name, or a uint8 table ``[256, 3]``.
        alpha: the heat's share, 0 to 1.

    Returns:
        uint8, the shape of ``frames``: ``(1 - alpha) * frame + alpha * colour``.

    Raises:
        ValueError: shapes that do not fit, an unknown colormap, alpha out of range.
        TypeError: other dtypes.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        raise TypeError(f"frames must be a uint8 tensor, got {kind_of(frames)}")
    check_dense(frames, "frames")
    check_floating(heatmap, "heatmap")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        raise ValueError(f"frames must have shape [N, H, W, 3] or [H, W, 3], got {list(frames.shape)}")
    if heatmap.shape[:-2] != frames.shape[:-3] or heatmap.ndim != frames.ndim - 1:
        raise ValueError(
            f"heatmap must be [N, h, w] with one map per frame {list(frames.shape)}, got {list(heatmap.shape)}"
        )
    if heatmap.device != frames.device:
        raise ValueError(f"frames and heatmap must be on one device, got {frames.device} and {heatmap.device}")
    if 0 in heatmap.shape[-2:]:
        raise ValueError(f"heatmap must not be empty, got {list(heatmap.shape)}")
    if not isinstance(alpha, (int, float, np.number, torch.SymFloat)):
        raise TypeError(f"alpha must be a number, got {kind_of(alpha)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    colors = table(colormap, frames.device)
    heatmap = heatmap.float()
    if frames.ndim == 3:
        return call(torch.ops.camfast.overlay.default, frames[None], heatmap[None], colors, alpha)[0]
    return call(torch.ops.camfast.overlay.default, frames, heatmap, colors, alpha)


def _fake(frames, heatmap, colors, alpha=0.5):
    return frames.new_empty(frames.shape)


def _fallback(frames, heatmap, colors, alpha=0.5):
    return reference.overlay(frames, heatmap, colors, alpha).contiguous()


register("overlay", _fake, _fallback)
