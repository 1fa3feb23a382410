"""Heat as metrics take it: an explanation or a tensor, brought to the images' size, and what is not finite left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..methods.chosen import count_per_image
from ..methods.explanation import Explanation
from ..model.precision import wide
from ..ops import resize_normalize

__all__ = ["Heat", "heat_tensor", "planes_of"]

Heat = Explanation | Tensor
"""An explanation, or its heatmap: floating ``[N, *size]``, or ``[N, K, *size]`` for K targets an image."""


def heat_tensor(heat: Any) -> Tensor:
    """The heatmap in fp32, or in fp64 as it is, without its graph.

    Raises:
        TypeError: for what is neither an explanation nor a floating tensor.
        ValueError: for explanations of clips and of bags.
    """
    if isinstance(heat, Explanation):
        if heat.images_per_row > 1 or heat.maps_per_image is not None:
            raise ValueError(
                "metrics take heat of images with a row of scores each, got an explanation of clips or bags"
            )
        heat = heat.heatmap
    if not isinstance(heat, Tensor) or not heat.is_floating_point():
        got = str(heat.dtype).removeprefix("torch.") if isinstance(heat, Tensor) else type(heat).__name__
        raise TypeError(f"heat must be an Explanation or a floating tensor, got {got}")
    return wide(heat.detach())


def planes_of(heat: Heat, images: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """Heat of the images' size, a plane per image and target.

    Args:
        heat: an explanation, or a tensor ``[N, *map]`` or ``[N, K, *map]``; another size is resized linearly.
        images: ``[N, C, *size]``.

    Returns:
        ``[P, *size]``, 0 where a plane is not finite; bool ``[P]``, which planes are; and K, or None for one target an image.
    """
    rank = images.ndim - 2
    many = count_per_image(heat.targets) is not None if isinstance(heat, Explanation) else None
    found = heat_tensor(heat).to(images.device)
    several = found.ndim == rank + 2
    if found.ndim not in (rank + 1, rank + 2) or len(found) != len(images) or (many is not None and many != several):
        raise ValueError(
            f"heat must be [N, *size] or [N, K, *size] for images {list(images.shape)}, got {list(found.shape)}"
        )
    planes = found.flatten(0, 1) if several else found
    known = planes.isfinite().flatten(1).all(1)
    planes = planes.where(known.reshape(-1, *(1,) * rank), 0)
    return resized(planes, images.shape[2:]), known, found.shape[1] if several else None


def resized(planes: Tensor, size: Sequence[int]) -> Tensor:
    """``planes`` ``[P, *map]`` at ``size``."""
    if tuple(planes.shape[1:]) == tuple(size):
        return planes
    return resize_normalize(planes, tuple(size), normalize=False)


def finite_or_nan(values: Tensor, known: Tensor) -> Tensor:
    """``values`` ``[P]`` with NaN where the plane is not known."""
    return values.where(known, torch.nan)
