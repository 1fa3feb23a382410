"""Gradients of a layer that nothing but global average pooling follows, before the last linear layer: no backward pass.

    activations [N, C, *map] -> (clone) -> mean over the map -> (flatten) -> last linear layer -> scores

There the gradient is the same at every position: the gradient behind the pooling over the number of positions, which is
what autograd would write into each of them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from .last_linear import operation

__all__ = ["gradient_of_pooled"]


def gradient_of_pooled(activations: Tensor, start: GradientEdge, gradient: Tensor) -> Tensor | None:
    """The gradient at each position of ``activations`` ``[N, C, *map]``, a leaf, from that at ``start``, ``[..., N, C]``.

    None where anything else lies between the two.
    """
    shape = tuple(activations.shape)
    pooled = shape[:2] + (1,) * len(shape[2:])
    node: Any = start.node
    if operation(node) in ("ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward"):
        if tuple(node._saved_self_sym_sizes) != pooled:
            return None
        node = node.next_functions[0][0]
    if operation(node) == "AsStridedBackward":  # how adaptive pooling names the memory format of [N, C, 1, 1]
        same = tuple(node._saved_size) == pooled and tuple(node._saved_stride[:2]) == (shape[1], 1)
        if not same or node._saved_storage_offset:
            return None
        node = node.next_functions[0][0]
    if operation(node) != "MeanBackward" or tuple(node._saved_self_sym_sizes) != shape or not node._saved_dim:
        return None
    rank = len(shape)
    # Dimensions counted from the end come back as unsigned numbers.
    dims = {(dim - 2**64 if dim >= 2**63 else dim) % rank for dim in node._saved_dim}
    if dims != set(range(2, rank)):
        return None
    node = node.next_functions[0][0]
    if operation(node) == "CloneBackward":
        node = node.next_functions[0][0]
    if operation(node) != "AccumulateGrad" or node.variable is not activations:
        return None
    return gradient / activations.shape[2:].numel()
