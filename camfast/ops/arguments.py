"""What the ops check of their arguments before they call a kernel: ``ValueError`` and ``TypeError``, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Size", "check_floating", "full_size", "kind_of"]

Size = int | Sequence[int] | None
"""A heatmap's size: one number for all dimensions, one per dimension, or None for the map's own."""

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_floating(tensor: object, name: str) -> None:
    """Raises ``TypeError`` for anything but a floating tensor."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATING:
        raise TypeError(f"{name} must be a float64, float32, float16 or bfloat16 tensor, got {kind_of(tensor)}")


def full_size(size: Size, own: Sequence[int]) -> list[int] | None:
    """The size with one number for each dimension of the map; None stays None."""
    if size is None:
        return None
    full = [size] * len(own) if isinstance(size, (int, torch.SymInt)) else list(size)
    if len(full) != len(own):
        raise ValueError(f"size must be an int or {len(own)} numbers for maps {list(own)}, got {size}")
    for n in full:
        if not isinstance(n, (int, torch.SymInt)) or isinstance(n, bool):
            raise TypeError(f"size must be made of ints, got {size!r}")
        if n < 1:
            raise ValueError(f"size must be positive, got {size}")
    return full


def kind_of(value: object) -> str:
    """What came, for a message: "a torch.int64 tensor", "list"."""
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
