"""A heatmap over a picture, as torchcam draws it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import require

__all__ = ["overlay_mask"]


def overlay_mask(img: Any, mask: Any, colormap: Any = "jet", alpha: float = 0.7) -> Any:
    """``img`` under the colours of ``mask`` squared, resized bicubically. Needs Pillow and matplotlib.

    Args:
        img: a PIL picture, grey or RGB. mask: a PIL picture of mode ``F``, in [0, 1].
        colormap: a name or a colormap of matplotlib. alpha: share of ``img``, in [0, 1).
    """
    Image = require("PIL.Image", "vision")
    colormaps = require("matplotlib", "compat").colormaps
    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise TypeError("img and mask arguments need to be PIL.Image")
    if not isinstance(alpha, float) or alpha < 0 or alpha >= 1:  # NaN passes, as in torchcam
        raise ValueError(f"alpha argument is expected to be of type float between 0 and 1, got {alpha!r}")
    if len(img.getbands()) not in (1, 3):
        raise ValueError(f"img argument needs to be a grayscale or RGB image, got mode {img.mode}")
    heat = np.asarray(mask.resize(img.size, Image.Resampling.BICUBIC)) ** 2
    colours = colormaps.get_cmap(colormap)(heat, bytes=True)[:, :, :3]
    if img.mode in ("L", "RGB") and colours.ndim == 3 and np.isfinite(alpha):
        return Image.blend(Image.fromarray(np.ascontiguousarray(colours)), img.convert("RGB"), alpha)
    below = np.asarray(img)
    below = below if below.ndim == 3 else below[..., None].repeat(3, -1)
    return Image.fromarray((alpha * below + (1 - alpha) * colours).astype(np.uint8))
