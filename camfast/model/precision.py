"""The precision that formulas are computed in: fp32, or fp64 for a model in fp64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["wide", "wide_dtype"]


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """fp64 where one of ``tensors`` is in it, else fp32: sums and powers in half precision would lose too much."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in fp32, or in fp64 as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
