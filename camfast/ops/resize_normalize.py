"""Min-max, linear resize and min-max again: what every op that makes heatmaps ends with, and its derivative."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from .arguments import Size, check_floating, full_size
from .reference import RANGE_EPS
from .registration import call, register, result_dtype

__all__ = ["finish_backward", "min_max_backward", "resize_backward", "resize_normalize"]


def resize_normalize(maps: Tensor, size: Size = None, normalize: bool = True, relu: bool = False) -> Tensor:
    """Min-max, linear resize and min-max of ``maps`` ``[..., *map]``, each map by itself.

    Args:
        maps: floating, any number of leading dimensions.
        size: the output's size; a sequence's length says how many last dimensions belong to a map (1 to 3); an int or
            None: two.
        normalize: False only resizes.
        relu: cut negative values off first.

    Returns:
        ``[..., *size]``, float32 (float64 for fp64), in [0, 1] when normalised.

    Raises:
        ValueError: shapes or sizes that do not fit.
        TypeError: a dtype that is not floating.
    """
    check_floating(maps, "maps")
    rank = len(size) if isinstance(size, Sequence) else 2
    if maps.ndim < rank:
        raise ValueError(f"maps must have at least the {rank} dimensions of a map, got shape {list(maps.shape)}")
    own = maps.shape[maps.ndim - rank :]
    size = full_size(size, own)
    lead = maps.shape[: maps.ndim - rank]
    if len(lead) == 1:
        return call(torch.ops.camfast.resize_normalize.default, maps, size, normalize, relu)
    each = maps.reshape(math.prod(lead), *own)  # numel() would fix the sizes of an export
    flat = call(torch.ops.camfast.resize_normalize.default, each, size, normalize, relu)
    return flat.reshape(*lead, *(own if size is None else size))


def _fake(maps, size=None, normalize=True, relu=False):
    return maps.new_empty((maps.shape[0], *(maps.shape[1:] if size is None else size)), dtype=result_dtype(maps))


def _fallback(maps, size=None, normalize=True, relu=False):
    result = reference.resize_normalize(maps, list(maps.shape[1:]) if size is None else size, normalize, relu)
    return result.contiguous() if result is not maps else maps.clone()


def _save(ctx, inputs, output) -> None:
    maps, _, normalize, relu = inputs
    ctx.save_for_backward(maps)
    ctx.normalize, ctx.relu = normalize, relu


def _backward(ctx, grad: Tensor):
    """The backward of ``camfast::resize_normalize``."""
    (maps,) = ctx.saved_tensors
    grad_maps = finish_backward(grad, maps.to(grad.dtype), maps.ndim - 1, ctx.normalize, ctx.relu)
    return grad_maps.to(maps.dtype), None, None, None


def finish_backward(grad: Tensor, raw: Tensor, rank: int, normalize: bool, relu: bool) -> Tensor:
    """Through ReLU, min-max, resize, min-max, from the heatmap's gradient ``[..., *size]`` to the raw map's ``[..., *map]``.

    One kernel; in parts where the gradient is to be differentiated in its turn.
    """
    if torch.is_grad_enabled():
        return _in_parts(grad, raw, rank, normalize, relu)
    lead = math.prod(raw.shape[: raw.ndim - rank])
    flat_grad, flat = (t.reshape(lead, *t.shape[t.ndim - rank :]) for t in (grad, raw))
    return call(torch.ops.camfast.resize_normalize_backward.default, flat_grad, flat, normalize, relu).reshape(
        raw.shape
    )


def _in_parts(grad: Tensor, raw: Tensor, rank: int, normalize: bool, relu: bool) -> Tensor:
    own, size = raw.shape[raw.ndim - rank :], grad.shape[grad.ndim - rank :]
    rectified = reference.positive(raw) if relu else raw
    if normalize:
        small = reference.min_max(rectified, rank)
        grad = min_max_backward(grad, reference.resize(small, size), rank)
    grad = resize_backward(grad, own, size)
    if normalize:
        grad = min_max_backward(grad, rectified, rank)
    return torch.where(raw > 0, grad, 0) if relu else grad


def min_max_backward(grad: Tensor, x: Tensor, rank: int, eps: float = RANGE_EPS) -> Tensor:
    """Of y = (x - min x) / (eps + max x - min x). Ties share the gradient of their minimum or maximum evenly.

    A constant x has a derivative of 0: its slope, one over eps, would be that of rounding.
    """
    dims = tuple(range(x.ndim - rank, x.ndim))
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    scale = torch.where(high == low, 0, 1 / (eps + (high - low)))
    y = (x - low) * scale
    at_high = (grad * y).sum(dims, keepdim=True)
    at_low = grad.sum(dims, keepdim=True) - at_high
    is_low, is_high = (x == low).to(x.dtype), (x == high).to(x.dtype)
    share = is_low * (at_low / is_low.sum(dims, keepdim=True)) + is_high * (at_high / is_high.sum(dims, keepdim=True))
    return (grad - share) * scale


def resize_backward(grad: Tensor, own, size, align_corners: bool = False) -> Tensor:
    """The adjoint of :func:`camfast.reference.resize`: an output's gradient goes to the two it was read from."""
    rank = len(size)
    for axis, (n, out) in zip(range(grad.ndim - rank, grad.ndim), zip(own, size, strict=True), strict=True):
        if n == out:
            continue
        low, high, weight = reference.samples(n, out, align_corners, grad)
        weight = weight.reshape(-1, *(1,) * (grad.ndim - 1 - axis))
        before = grad.new_zeros(*grad.shape[:axis], n, *grad.shape[axis + 1 :])
        grad = before.index_add(axis, low, (1 - weight) * grad).index_add(axis, high, weight * grad)
    return grad


register("resize_normalize", _fake, _fallback, _backward, _save)
register(
    "resize_normalize_backward",
    lambda grad, maps, normalize, relu: torch.empty_like(maps, memory_format=torch.contiguous_format),
    lambda grad, maps, normalize, relu: _in_parts(grad, maps, maps.ndim - 1, normalize, relu).contiguous(),
    double=True,
)
