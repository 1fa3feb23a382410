"""The images that a network is shipped on: the user's, or some of the size that the network names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["example_of", "several"]

_SIDE = 224


def example_of(model: nn.Module) -> Tensor:
    """Random images ``[1, C, H, W]`` of the size that ``model`` says it was trained on, or of 224 x 224."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = config.get("input_size") if isinstance(config, dict) else None
    if size is None:
        first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
        channels = 3 if first is None else first.in_channels
        side = getattr(model, "image_size", None) or getattr(getattr(model, "config", None), "image_size", None)
        size = (channels, *((side, side) if isinstance(side, int) else side or (_SIDE, _SIDE)))
    some = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *size, generator=generator).to(some.device, some.dtype)


def several(example: Any, targets: Any, dynamic: bool) -> Tensor:
    """``example`` with as many images as ``targets`` name, or as a dynamic number of them needs: two.

    The further ones are mirror images. Raises ``TypeError`` and ``ValueError`` for what are no such images.
    """
    if not isinstance(example, Tensor) or not example.is_floating_point():
        got = str(example.dtype).removeprefix("torch.") if isinstance(example, Tensor) else type(example).__name__
        raise TypeError(f"example must be a floating tensor of images [N, C, H, W], got {got}")
    if example.ndim < 3 or 0 in example.shape:
        raise ValueError(f"example must be images [N, C, H, W], got {list(example.shape)}")
    count = len(targets) if _is_list(targets) else None
    if count not in (None, len(example)) and len(example) > 1:
        raise ValueError(f"expected one target an image, {len(example)}, got {count}")
    wanted = count if count is not None else max(len(example), 2) if dynamic else len(example)
    found = example.detach()
    while len(found) < wanted:
        found = torch.cat([found, found.flip(-1)])
    return found[:wanted].contiguous()


def _is_list(targets: Any) -> bool:
    if isinstance(targets, Tensor):
        return targets.ndim > 0
    return isinstance(targets, (list, tuple)) or (hasattr(targets, "__array__") and getattr(targets, "ndim", 0) > 0)
