"""Derivatives that PyTorch leaves to kernels, written out in operations that every runtime has.

PyTorch's own table of decompositions serves for most. What it lacks are convolutions and poolings: the derivative of a
convolution with respect to its input is a transposed one, and a pooling that averages is linear along each axis, a small
matrix, whose derivative is the matrix transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

__all__ = ["table"]

aten = torch.ops.aten

_KEPT = (
    # Runtimes have these as one operation.
    aten.addmm,
    aten.stack,  # as a concatenation and a view OpenVINO does not take it with any number of images
    aten.native_layer_norm,
    aten.native_group_norm,
    aten.upsample_bilinear2d,
    aten.upsample_nearest2d,
    aten.avg_pool2d,
    aten.max_pool2d_with_indices,
    aten.hardswish,
    aten.hardsigmoid,
    aten.silu,
    aten.gelu,
    aten.elu,
    aten.leaky_relu,
    aten.hardtanh,
    aten._softmax,
)


def table() -> dict[Any, Callable[..., Any]]:
    """Operations, and what they become."""
    found = dict(core_aten_decompositions())
    for packet in _KEPT:
        for overload in packet.overloads():
            found.pop(getattr(packet, overload), None)
    found.update(_OWN)
    return found


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    if wanted[1] or wanted[2]:
        return NotImplemented
    rank = x.ndim - 2
    stride, padding, dilation = (_each(numbers, rank) for numbers in (stride, padding, dilation))
    none = [0] * rank
    if transposed:
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, none, groups), None, None
    extra = [
        x.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(rank)
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups), None, None


def _max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
    indices: Tensor,
) -> Tensor:
    lead, size = x.shape[:-2], x.shape[-2:]
    spread = torch.zeros_like(x).flatten(-2).scatter_add(-1, indices.flatten(-2), gradient.flatten(-2))
    return spread.view(*lead, *size)


def _adaptive_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    return _pooled(x, *(_adaptive(length, out, x) for length, out in zip(x.shape[-2:], size, strict=True)))


def _adaptive_pool_backward(gradient: Tensor, x: Tensor) -> Tensor:
    lengths = zip(x.shape[-2:], gradient.shape[-2:], strict=True)
    return _pooled(gradient, *(_transposed(_adaptive(length, out, x)) for length, out in lengths))


def _average_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
    count_padding: bool,
    divisor: int | None,
) -> Tensor:
    kernel = _each(kernel, 2)
    stride, padding = _each(stride or kernel, 2), _each(padding, 2)
    sides = []
    for i in range(2):
        length, out = x.shape[2 + i - 4 + x.ndim], gradient.shape[2 + i - 4 + gradient.ndim]
        sides.append(_average(length, out, kernel[i], stride[i], padding[i], count_padding, divisor is not None, x))
    found = _pooled(gradient, *map(_transposed, sides))
    return found if divisor is None else found / divisor


def _pooled(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """``rows @ x @ columns.T``; None stands for a matrix that changes nothing."""
    x = x if columns is None else x @ columns.t()
    return x if rows is None else rows @ x


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.t()


def _adaptive(length: int, out: int, like: Tensor) -> Tensor | None:
    """``[out, length]`` of adaptive average pooling."""
    if length == out:
        return None
    rows = []
    for i in range(out):
        start, end = i * length // out, -(-(i + 1) * length // out)
        rows.append([1 / (end - start) if start <= j < end else 0.0 for j in range(length)])
    return _matrix(rows, like)


def _average(
    length: int, out: int, kernel: int, stride: int, padding: int, count_padding: bool, plain: bool, like: Tensor
) -> Tensor:
    """``[out, length]`` of average pooling; of sums where ``plain``."""
    rows = []
    for i in range(out):
        start = i * stride - padding
        end = min(start + kernel, length + padding)
        inside = range(max(start, 0), min(end, length))
        share = 1.0 if plain else 1 / ((end - start) if count_padding else len(inside))
        rows.append([share if j in inside else 0.0 for j in range(length)])
    return _matrix(rows, like)


def _matrix(rows: list[list[float]], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _each(numbers: Sequence[int], rank: int) -> list[int]:
    return list(numbers) * rank if len(numbers) == 1 else list(numbers)


_OWN = {
    aten.convolution_backward.default: _convolution_backward,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten._adaptive_avg_pool2d.default: _adaptive_pool,
    aten._adaptive_avg_pool2d_backward.default: _adaptive_pool_backward,
    aten.avg_pool2d_backward.default: _average_pool_backward,
}
