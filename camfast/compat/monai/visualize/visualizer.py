"""How maps are brought to the size of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["default_upsampler"]

_MODES = ("linear", "bilinear", "trilinear")


def default_upsampler(spatial_size: Sequence[int], align_corners: bool = False) -> Callable[[Tensor], Tensor]:
    """A function that resizes ``[N, C, *map]`` of one to three dimensions linearly to ``spatial_size``."""

    def upsample(x: Tensor) -> Tensor:
        mode = _MODES[len(spatial_size) - 1]
        return F.interpolate(x, size=tuple(spatial_size), mode=mode, align_corners=align_corners)

    return upsample
