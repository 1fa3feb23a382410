"""The ops' derivatives, in differentiable PyTorch: heatmaps are differentiable in activations, gradients and weights.

A backward recomputes the raw low-resolution map (small) rather than keeping anything of the forward but its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .reference import MASK_EPS, PLUS_PLUS_EPS, RANGE_EPS, XGRAD_EPS


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


def save_eigen(ctx, inputs, output) -> None:
    activations, ctx.size, ctx.normalize, *gamma = inputs
    ctx.save_for_backward(activations)
    ctx.gamma = gamma


def eigen_backward(name: str):
    """The backward of ``camfast::eigen_cam`` and ``camfast::kpca_cam``, by first-order perturbation of the eigenvector.

    Where the two largest eigenvalues agree there is no derivative, and what is returned is not finite or zero.
    """

    def backward(ctx, grad: Tensor):
        (activations,) = ctx.saved_tensors
        op = getattr(torch.ops.camfast, name).default
        with torch.amp.autocast(activations.device.type, enabled=False):
            raw = op(activations, None, False, *ctx.gamma)
            rank = activations.ndim - 2
            grad_map = _finish_backward(grad, raw, rank, ctx.size, ctx.normalize, relu=ctx.normalize)
            given = activations.flatten(2).double().mT  # [N, S, C]
            known = given.nan_to_num(0.0, torch.inf, -torch.inf).isfinite().flatten(1).all(1)[:, None, None]
            rows = torch.where(given.isnan() | ~known, 0, given)
            rows = rows - rows.mean(1, keepdim=True)
            component = _kernel_backward if ctx.gamma else _component_backward
            grad_rows = component(grad_map.flatten(1).double(), raw.flatten(1).double(), rows, *ctx.gamma)
            grad_rows = grad_rows - grad_rows.mean(1, keepdim=True)
            grad_rows = torch.where(known, torch.where(given.isnan(), 0, grad_rows), torch.nan)
            grad_A = grad_rows.mT.reshape(activations.shape).to(activations.dtype)
            return grad_A, None, None, *(None for _ in ctx.gamma)

    return backward


def _component_backward(grad: Tensor, raw: Tensor, X: Tensor) -> Tensor:
    """Through p = X v, v the first right singular vector of X ``[N, S, C]``: from p's gradient ``[N, S]`` to X's."""
    g, p = grad.unsqueeze(2), raw.nan_to_num(0.0).unsqueeze(2)  # columns
    if X.shape[1] <= X.shape[2]:  # p = sigma u, by the eigenvectors of X X'
        u, z, sigma = _perturbed(X @ X.mT, g, p)
        along = (u * g).sum(1, keepdim=True)
        symmetric = u @ u.mT * (along / sigma) + sigma * (z @ u.mT + u @ z.mT)
        return torch.where(sigma > 0, symmetric @ X, 0)
    v, z, _ = _perturbed(X.mT @ X, X.mT @ g, X.mT @ p)
    return g @ v.mT + X @ (v @ z.mT + z @ v.mT)


def _kernel_backward(grad: Tensor, raw: Tensor, X: Tensor, gamma: float | None) -> Tensor:
    """The same for p = sqrt(lambda) u, u the first eigenvector of the centred sigmoid kernel of the rows of X."""
    scale = 1 / X.shape[2] if gamma is None else gamma
    kernel = torch.tanh(scale * (X @ X.mT) + 1)
    centred = kernel - kernel.mean(1, keepdim=True) - kernel.mean(2, keepdim=True) + kernel.mean((1, 2), keepdim=True)
    g = grad.unsqueeze(2)
    u, z, sigma = _perturbed(centred, g, raw.nan_to_num(0.0).unsqueeze(2))
    by_kernel = u @ u.mT * ((u * g).sum(1, keepdim=True) / (2 * sigma)) + sigma / 2 * (z @ u.mT + u @ z.mT)
    by_kernel = by_kernel - by_kernel.mean(1, keepdim=True) - by_kernel.mean(2, keepdim=True)  # its own mean is zero
    by_kernel = by_kernel + by_kernel.mean((1, 2), keepdim=True)
    return torch.where(sigma > 0, 2 * scale * (by_kernel * (1 - kernel * kernel)) @ X, 0)


def _perturbed(matrix: Tensor, g: Tensor, towards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of symmetric matrices: the first eigenvector u ``[N, n, 1]``, on the side of ``towards``; z, the pseudo-inverse of
    (lambda - matrix) times ``g``, by which u moves when the matrix does; and the root of its eigenvalue ``[N, 1, 1]``."""
    values, vectors = torch.linalg.eigh(matrix)
    u = vectors[:, :, -1:]
    u = torch.where((u * towards).sum(1, keepdim=True) < 0, -u, u)
    gaps = (values[:, -1:] - values[:, :-1]).unsqueeze(2)
    z = vectors[:, :, :-1] @ ((vectors[:, :, :-1].mT @ g) / gaps)
    return u, z, values[:, -1].clamp(min=0).sqrt()[:, None, None]


def save_masks(ctx, inputs, output) -> None:
    images, maps, ctx.align_corners, ctx.scale_first = inputs
    ctx.save_for_backward(images, maps)


def masks_backward(ctx, grad: Tensor):
    """The backward of ``camfast::mask_images``."""
    images, maps = ctx.saved_tensors
    rank, size, own = images.ndim - 2, images.shape[2:], maps.shape[2:]
    grad = grad.to(maps.dtype).unflatten(0, maps.shape[:2])  # [N, C, P, *size]
    masks = reference.score_masks(maps, size, ctx.align_corners, ctx.scale_first)
    grad_images = (grad * masks.unsqueeze(2)).sum(1).to(images.dtype)
    grad_maps = (grad * images.to(maps.dtype).unsqueeze(1)).sum(2)
    if ctx.scale_first:
        grad_maps = _resize_backward(grad_maps, own, size, ctx.align_corners)
        grad_maps = _min_max_backward(grad_maps, maps, rank, MASK_EPS)
    else:
        large = reference.resize(maps, size, ctx.align_corners)
        grad_maps = _min_max_backward(grad_maps, large, rank, MASK_EPS)
        grad_maps = _resize_backward(grad_maps, own, size, ctx.align_corners)
    return grad_images, grad_maps, None, None


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


def _min_max_backward(grad: Tensor, x: Tensor, rank: int, eps: float = RANGE_EPS) -> Tensor:
    """Of y = (x - min x) / (eps + max x - min x). Ties share the gradient of their minimum or maximum evenly."""
    dims = tuple(range(x.ndim - rank, x.ndim))
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    scale = 1 / (eps + (high - low))
    y = (x - low) * scale
    at_high = (grad * y).sum(dims, keepdim=True)
    at_low = grad.sum(dims, keepdim=True) - at_high
    is_low, is_high = (x == low).to(x.dtype), (x == high).to(x.dtype)
    share = is_low * (at_low / is_low.sum(dims, keepdim=True)) + is_high * (at_high / is_high.sum(dims, keepdim=True))
    return (grad - share) * scale


def _resize_backward(grad: Tensor, own, size, align_corners: bool = False) -> Tensor:
    """The adjoint of :func:`camfast.reference.resize`: along each axis, the transposed matrix of hat functions."""
    rank = len(size)
    for axis, (n, out) in enumerate(zip(own, size, strict=True)):
        if n == out:
            continue
        half, scale = (0.0, (n - 1) / max(out - 1, 1)) if align_corners else (0.5, n / out)
        centre = (torch.arange(out, dtype=grad.dtype, device=grad.device) + half) * scale - half
        centre = centre.clamp(0, n - 1)
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
