"""Layouts of transformers and pyramids, turned into maps ``[N, C, H, W]``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fasterrcnn_reshape_transform", "swinT_reshape_transform", "vit_reshape_transform"]


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """Absolute values of a feature pyramid's maps, each at the size of ``x["pool"]``, their channels side by side."""
    size = x["pool"].shape[-2:]
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], 1)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:
    """Tokens ``[N, height * width, C]`` as ``[N, C, height, width]``."""
    return tensor.reshape(tensor.size(0), height, width, tensor.size(2)).permute(0, 3, 1, 2)


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Tokens ``[N, 1 + height * width, C]``, of which the first is the class token, as ``[N, C, height, width]``."""
    return swinT_reshape_transform(tensor[:, 1:], height, width)
