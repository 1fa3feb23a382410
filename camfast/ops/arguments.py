"""What the ops check of their arguments before they call a kernel: ``ValueError`` and ``TypeError``, in one sentence."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LARGEST", "Size", "check_dense", "check_floating", "full_size", "kind_of", "whole"]

Size = int | Sequence[int] | None
"""A heatmap's size: one number for all dimensions, one per dimension, or None for the map's own."""

LARGEST = 2**31 - 1
"""The largest number of positions along a dimension, which kernels count in 32 bits."""

_STRIDED = torch.strided
_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_floating(tensor: object, name: str) -> None:
    """Raises ``TypeError`` for anything but a dense floating tensor."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATING:
        raise TypeError(f"{name} must be a float64, float32, float16 or bfloat16 tensor, got {kind_of(tensor)}")
    check_dense(tensor, name)


def check_dense(tensor: Tensor, name: str) -> None:
    """Raises ``TypeError`` for sparse and nested tensors."""
    if tensor.layout is not _STRIDED or tensor.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, got {_sparse_or_nested(tensor)}; to_dense() or padding makes it one"
        )


def full_size(size: Size, own: Sequence[int]) -> list[int] | None:
    """The size with one number for each dimension of the map; None stays None."""
    if size is None:
        return None
    if type(size) is int and 0 < size <= LARGEST:  # what is mostly given, without looking any further
        return [size] * len(own)
    if isinstance(size, (int, torch.SymInt)):
        full = [size] * len(own)
    elif isinstance(size, Sequence) and not isinstance(size, str):
        full = list(size)
    else:
        full = [whole(size, "size")] * len(own)
    if len(full) != len(own):
        raise ValueError(f"size must be an int or {len(own)} numbers for maps {list(own)}, got {size}")
    full = [whole(n, "size") for n in full]
    if not torch.compiler.is_compiling() and max(full, default=1) > LARGEST:
        raise ValueError(f"size must be at most {LARGEST} along a dimension, got {size}")
    for n in full:
        if n < 1:
            raise ValueError(f"size must be positive, got {size}")
    return full


def whole(value: object, name: str) -> int:
    """``value`` as a Python int: an int, or what stands for one, such as ``numpy.int64``. ``TypeError`` for others."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value  # type: ignore[return-value]
    if not isinstance(value, (bool, Tensor)):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be made of ints, got {kind_of(value) if isinstance(value, Tensor) else repr(value)}")


def _sparse_or_nested(tensor: Tensor) -> str:
    return "a nested one" if tensor.is_nested else f"one of layout {tensor.layout}"


def kind_of(value: object) -> str:
    """What came, for a message: "a torch.int64 tensor", "list"."""
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
