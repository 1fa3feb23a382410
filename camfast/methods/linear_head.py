"""Gradients without a backward pass, where nothing but pooling and a linear layer follows the layer.

    activations [N, C, *map] -> mean over the map -> [N, C] -> linear layer -> scores [N, classes]

Most classifiers end like this, or at least in the linear layer. Two things are then known without autograd:

1. *Behind the linear layer* the gradient of one class's score is that class's row of the weight. Taking the row reads C
   numbers; multiplying a one-hot vector by the weight, as autograd would, reads C x classes of them. The values are the
   same to the last bit.
2. *Behind the pooling* the gradient is the same at every position: that row over the number of positions. Maps of any
   number of classes are then one matrix product with the activations.

Nothing is taken on trust. The graph that the pass has just recorded is walked from the scores back, operation by operation;
where it shows anything else on the way, or a weight that depends on the image, autograd differentiates what is left.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..model.precision import wide_dtype
from .chosen import Chosen

__all__ = ["LinearLayer", "is_pooled", "last_linear", "operation", "products", "start_of"]


class LinearLayer(NamedTuple):
    """The linear layer that the scores come straight from."""

    weight: Tensor  # [classes, C]
    before: GradientEdge  # of the graph, to what the layer read
    rank: int  # of what it read: [N, C], or [N, C, 1, 1] for a convolution of 1 x 1


def start_of(chosen: Chosen, graph: bool = False) -> tuple[Tensor | GradientEdge, Tensor | None]:
    """As :meth:`Chosen.objective`, or the same gradients further back in the graph, where they cost nothing.

    With ``graph`` they depend on the linear layer's weight, and not on its values alone.
    """
    layer = last_linear(chosen.scores, graph) if isinstance(chosen.targets, Tensor) else None
    if layer is None or layer.rank != 2:
        return chosen.objective()
    rows = layer.weight[chosen.targets]  # [N, C] or [N, K, C]
    return layer.before, rows if rows.ndim == 2 else rows.transpose(0, 1)


def last_linear(scores: Tensor, graph: bool = False) -> LinearLayer | None:
    """The linear layer that ``scores`` ``[N, classes]`` come straight from: a matrix product, or a 1 x 1 convolution.

    Its weight has a graph to the parameters only with ``graph``. None where something else comes after it, or where its
    weight or bias are more than parameters.
    """
    node: Any = scores.grad_fn
    if scores.ndim != 2 or node is None:
        return None
    if operation(node) in _RESHAPES:
        return _convolution(*_before_reshapes(node, tuple(scores.shape)), scores, graph)
    if operation(node) == "AddmmBackward" and node._saved_alpha == 1:
        bias, (before, output), (weights, _) = node.next_functions
    elif operation(node) == "MmBackward":
        bias, ((before, output), (weights, _)) = (None, 0), node.next_functions
    else:
        return None
    weight = node._saved_mat2  # [C, classes]
    if before is None or weight is None or weight.shape[1:] != scores.shape[1:] or weight.dtype != scores.dtype:
        return None
    if not _is_fixed(bias[0]) or not _is_fixed(weights) or _is_gone(weight):
        return None
    return LinearLayer((weight if graph else weight.detach()).t(), GradientEdge(before, output), 2)


def _convolution(node: Any, shape: tuple[int, ...], scores: Tensor, graph: bool) -> LinearLayer | None:
    """The same for a convolution to ``shape`` ``[N, classes, 1, 1]``, of which ``scores`` are a view."""
    if operation(node) != "ConvolutionBackward" or node._saved_transposed or node._saved_groups != 1:
        return None
    weight = node._saved_weight  # [classes, C, 1, 1]
    (before, output), (weights, _), (bias, _) = node.next_functions
    plain = weight is not None and weight[0, 0].numel() == 1 and not any(node._saved_padding)
    if before is None or not plain or weight.dtype != scores.dtype or not _is_fixed(weights) or not _is_fixed(bias):
        return None
    if _is_gone(weight):
        return None
    return LinearLayer((weight if graph else weight.detach()).flatten(1), GradientEdge(before, output), len(shape))


def is_pooled(layer: LinearLayer, activations: Tensor) -> bool:
    """Whether ``layer`` read the mean over all positions of ``activations`` ``[N, C, *map]``, and nothing else.

    ``activations`` are what a tap captured: a leaf, or a tensor in the graph.
    """
    shape = tuple(activations.shape)
    if len(shape) < 3 or layer.weight.shape[1] != shape[1] or layer.before.output_nr:
        return False
    pooled = shape[:2] + (1,) * len(shape[2:])
    node, _ = _before_reshapes(layer.before.node, shape[:2])
    if operation(node) == "AsStridedBackward":  # how adaptive pooling names the memory format of [N, C, 1, 1]
        same = tuple(node._saved_size) == pooled and tuple(node._saved_stride[:2]) == (shape[1], 1)
        if not same or node._saved_storage_offset:
            return False
        node = node.next_functions[0][0]
    if not (_is_mean(node, shape) or _is_average_pooling(node, shape)):
        return False
    start = get_gradient_edge(activations)
    node, output = node.next_functions[0]
    while node is not start.node and operation(node) in _RESHAPES | {"CloneBackward"}:
        # Of positions among themselves: flatten(2)
        if operation(node) in _RESHAPES and tuple(node._saved_self_sym_sizes[:2]) != shape[:2]:
            return False
        node, output = node.next_functions[0]
    return node is start.node and output == start.output_nr


def products(rows: Tensor, activations: Tensor) -> Tensor:
    """``[N, K, *map]``: the sums over channels of ``rows`` ``[K, C]``, or ``[N, K, C]``, times ``activations``.

    In fp32, or fp64 for fp64, under autocast too.
    """
    dtype = wide_dtype(activations)
    with torch.autocast(activations.device.type, enabled=False):
        positions = activations.to(dtype).flatten(2).mT.contiguous()  # [N, S, C]
        rows = rows.to(positions)
        maps = F.linear(positions, rows) if rows.ndim == 2 else positions @ rows.mT  # [N, S, K]
    return maps.mT.contiguous().unflatten(2, activations.shape[2:])


# The graph


def operation(node: Any) -> str:
    """The name of what a node of the graph goes back through, without its version: ``"AddmmBackward"``."""
    return type(node).__name__.rstrip("0123456789")


_RESHAPES = {"ReshapeAliasBackward", "SqueezeBackward", "UnsafeViewBackward", "ViewBackward"}


def _before_reshapes(node: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """The node, and its shape, before views of ``[N, C, 1, ...]`` that end in ``shape``, ``[N, C, 1, ...]`` as well.

    Such views keep every value where it is: at image n and channel c.
    """
    while operation(node) in _RESHAPES:
        before = tuple(node._saved_self_sym_sizes)
        if before[:2] != shape[:2] or any(side != 1 for side in before[2:]):
            break
        node, shape = node.next_functions[0][0], before
    return node, shape


def _is_mean(node: Any, shape: tuple[int, ...]) -> bool:
    """Whether ``node`` is the mean over all positions of ``shape`` ``[N, C, *map]``, or of a view ``[N, C, ...]`` of it."""
    if operation(node) != "MeanBackward" or not getattr(node, "_saved_dim", None):
        return False
    own = tuple(node._saved_self_sym_sizes)
    if own[:2] != shape[:2] or math.prod(own[2:]) != math.prod(shape[2:]):
        return False
    rank = len(own)
    # Dimensions counted from the end come back as unsigned numbers.
    dims = {(dim - 2**64 if dim >= 2**63 else dim) % rank for dim in node._saved_dim}
    return dims == set(range(2, rank))


def _is_average_pooling(node: Any, shape: tuple[int, ...]) -> bool:
    """Whether ``node`` is average pooling with one window, of all positions of ``shape`` ``[N, C, *map]``."""
    return (
        operation(node) in ("AvgPool2DBackward", "AvgPool3DBackward")
        and tuple(node._saved_self.shape) == shape
        and tuple(node._saved_kernel_size) == shape[2:]
        and not any(node._saved_padding)
        and node._saved_divisor_override is None
    )


def _is_gone(weight: Tensor) -> bool:
    """Whether the values of a weight were given back after the pass, as fully sharded training does."""
    return weight.untyped_storage().nbytes() < weight.numel() * weight.element_size()


def _is_fixed(node: Any) -> bool:
    """Whether parameters alone are behind ``node``, a weight's, and no image."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if operation(node) == "AccumulateGrad" and not isinstance(node.variable, nn.Parameter):
            return False
        waiting += [following for following, _ in node.next_functions]
    return True
