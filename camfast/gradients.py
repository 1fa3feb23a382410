"""The ops' derivatives, in differentiable PyTorch: heatmaps are differentiable in activations, gradients and weights.

A backward recomputes the raw low-resolution map (small) rather than keeping anything of the forward but its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .reference import PLUS_PLUS_EPS, RANGE_EPS, XGRAD_EPS


def save_family(ctx, inputs, output) -> None:
    activations, second, size, normalize = inputs
    ctx.save_for_backward(activations, second)
    ctx.size, ctx.normalize = size, normalize


def family_backward(name: str):
    """The backward of ``camfast::<name>``."""

    def backward(ctx, grad: Tensor):
        activations, second = ctx.saved_tensors
        op = getattr(torch.ops.camfast, name).default
        with torch.amp.autocast(activations.device.type, enabled=False):
            raw = op(activations, second, None, False)
            rank = activations.ndim - 2
            grad_map = _finish_backward(grad, raw, rank, ctx.size, ctx.normalize, relu=ctx.normalize)
            grad_A, grad_second = _map_backward(name, grad_map, activations.to(raw.dtype), second.to(raw.dtype))
            return grad_A.to(activations.dtype), grad_second.to(second.dtype), None, None

    return backward


def save_resize(ctx, inputs, output) -> None:
    maps, size, normalize, relu = inputs
    ctx.save_for_backward(maps)
    ctx.size, ctx.normalize, ctx.relu = size, normalize, relu


def resize_backward(ctx, grad: Tensor):
    """The backward of ``camfast::resize_normalize``."""
    (maps,) = ctx.saved_tensors
    grad_maps = _finish_backward(grad, maps.to(grad.dtype), maps.ndim - 1, ctx.size, ctx.normalize, ctx.relu)
    return grad_maps.to(maps.dtype), None, None, None


def _finish_backward(grad: Tensor, raw: Tensor, rank: int, size, normalize: bool, relu: bool) -> Tensor:
    """Through ReLU, min-max, resize, min-max, from the heatmap's gradient to the raw map's."""
    own = raw.shape[raw.ndim - rank :]
    size = own if size is None else size
    rectified = raw.clamp(min=0) if relu else raw
    if normalize:
        small = reference.min_max(rectified, rank)
        grad = _min_max_backward(grad, reference.resize(small, size), rank)
    grad = _resize_backward(grad, own, size)
    if normalize:
        grad = _min_max_backward(grad, rectified, rank)
    return torch.where(raw > 0, grad, 0) if relu else grad


def _min_max_backward(grad: Tensor, x: Tensor, rank: int) -> Tensor:
    """Of y = (x - min x) / (eps + max x - min x). Ties share the gradient of their minimum or maximum evenly."""
    dims = tuple(range(x.ndim - rank, x.ndim))
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    scale = 1 / (RANGE_EPS + (high - low))
    y = (x - low) * scale
    at_high = (grad * y).sum(dims, keepdim=True)
    at_low = grad.sum(dims, keepdim=True) - at_high
    is_low, is_high = (x == low).to(x.dtype), (x == high).to(x.dtype)
    share = is_low * (at_low / is_low.sum(dims, keepdim=True)) + is_high * (at_high / is_high.sum(dims, keepdim=True))
    return (grad - share) * scale


def _resize_backward(grad: Tensor, own, size) -> Tensor:
    """The adjoint of :func:`camfast.reference.resize`: along each axis, the transposed matrix of hat functions."""
    rank = len(size)
    for axis, (n, out) in enumerate(zip(own, size, strict=True)):
        if n == out:
            continue
        centre = ((torch.arange(out, dtype=grad.dtype, device=grad.device) + 0.5) * (n / out) - 0.5).clamp(0, n - 1)
        source = torch.arange(n, dtype=grad.dtype, device=grad.device)
        hats = (1 - (centre[:, None] - source).abs()).clamp(min=0)  # [out, n]
        grad = (grad.movedim(axis - rank, -1) @ hats).movedim(-1, axis - rank)
    return grad


def _map_backward(name: str, grad: Tensor, A: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Through the channel sum and the weights, from the raw map's gradient ``[N, (K,) *map]`` to both inputs'."""
    rank = A.ndim - 2
    has_targets = grad.ndim == rank + 2
    a = A.unsqueeze(1) if has_targets else A  # [N, (1,) C, *map]
    r = grad.unsqueeze(-rank - 1)  # [N, (K,) 1, *map]
    positions = tuple(range(-rank, 0))

    def to_activations(x: Tensor) -> Tensor:
        return x.sum(1) if has_targets else x

    def spread(w: Tensor) -> Tensor:  # [N, (K,) C] over the positions
        return w[(...,) + (None,) * rank]

    if name in ("hires_cam", "layer_cam", "grad_cam_elementwise"):
        G = second
        if name == "hires_cam":
            return to_activations(r * G), r * a
        if name == "layer_cam":
            return to_activations(r * G.clamp(min=0)), torch.where(G > 0, r * a, 0)
        active = (G * a > 0).to(G.dtype)
        return to_activations(r * G * active), r * a * active

    grad_w = (r * a).sum(positions)  # d / d weights, [N, (K,) C]
    if name == "cam":
        return to_activations(r * spread(second)), grad_w
    G = second
    count = a.shape[-rank:].numel()
    if name == "grad_cam":
        w = G.mean(positions)
        return to_activations(r * spread(w)), spread(grad_w / count).expand_as(G)
    if name == "xgrad_cam":
        total = a.sum(positions) + XGRAD_EPS
        w = (G * a).sum(positions) / total
        to_w = spread(grad_w / total)
        return to_activations(r * spread(w) + to_w * (G - spread(w))), to_w * a
    # grad_cam_plus_plus: w = sum max(g, 0) g^2 / D, D = 2 g^2 + sum(a) g^3 + eps
    sum_a = spread(a.sum(positions))
    g2, g3 = G * G, G * G * G
    D = 2 * g2 + sum_a * g3 + PLUS_PLUS_EPS
    positive = (G > 0).to(G.dtype)
    w = (positive * g3 / D).sum(positions)
    by_g = positive * (3 * g2 * D - g3 * (4 * G + 3 * sum_a * g2)) / (D * D)
    by_sum = (-positive * g3 * g3 / (D * D)).sum(positions)
    return to_activations(r * spread(w) + spread(grad_w * by_sum)), spread(grad_w) * by_g
