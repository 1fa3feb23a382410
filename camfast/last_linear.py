"""Where the backward pass of class scores starts: behind the last linear layer, if there is one.

The gradient of one class's score with respect to what a linear layer read is that class's row of its weight. Taking the
row reads C numbers; multiplying a one-hot vector by the weight, as autograd would, reads C x classes of them, which for a
small network is the larger part of the backward pass. The values are the same to the last bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

__all__ = ["behind_last_linear", "operation"]


def operation(node: Any) -> str:
    """The name of what a node of the graph goes back through, without its version: ``"AddmmBackward"``."""
    return type(node).__name__.rstrip("0123456789")


def behind_last_linear(scores: Tensor, ids: Tensor) -> tuple[GradientEdge, Tensor] | None:
    """The edge of the graph that leads to the last linear layer's input ``[N, C]``, and gradients there.

    ``ids`` ``[N]`` give gradients ``[N, C]``, ``[N, K]`` give ``[K, N, C]``. None where ``scores`` ``[N, classes]`` do not
    come straight from a matrix product whose first factor depends on the activations.
    """
    node: Any = scores.grad_fn
    name = operation(node)
    if scores.ndim != 2 or name not in ("AddmmBackward", "MmBackward"):
        return None
    before, output = node.next_functions[1 if name == "AddmmBackward" else 0]
    if before is None or (name == "AddmmBackward" and node._saved_alpha != 1):
        return None
    weight = node._saved_mat2  # [C, classes]
    if weight is None or weight.shape[1:] != scores.shape[1:] or weight.dtype != scores.dtype:
        return None
    rows = weight.detach().t()[ids]  # [N, C] or [N, K, C]
    return GradientEdge(before, output), rows if ids.ndim == 1 else rows.transpose(0, 1)
