"""Principal components as heatmaps: Eigen-CAM and KPCA-CAM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference
from .arguments import Size, check_floating, full_size
from .registration import call, register, result_dtype
from .resize_normalize import finish_backward

__all__ = ["eigen_cam", "kpca_cam"]


def eigen_cam(activations: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Eigen-CAM: positions, centred, on their first principal component (Muhammad 2020, https://arxiv.org/abs/2008.00299).

    The component is the largest eigenvector of the Gram matrix over positions or over channels, whichever is smaller,
    in fp64: a 7 x 7 map of 2048 channels needs a 49 x 49 matrix instead of a decomposition with 2048 vectors. Its sign
    is arbitrary: here the entry of largest magnitude is positive. Differentiable where the two largest eigenvalues differ.

    Args:
        activations: ``[N, C, *map]``, a map of one to three dimensions. NaN counts as 0; an image with Inf gets NaN.
        size: as in :func:`camfast.ops.cam`.
        normalize: as in :func:`camfast.ops.cam`.

    Returns:
        ``[N, *size]``, float32 (float64 for fp64), in [0, 1] when normalised.

    Raises:
        ValueError: a shape or size that does not fit.
        TypeError: a dtype that is not floating.
    """
    size = _checked(activations, size)
    return call(torch.ops.camfast.eigen_cam.default, activations, size, normalize)


def kpca_cam(activations: Tensor, size: Size = None, normalize: bool = True, gamma: float | None = None) -> Tensor:
    """KPCA-CAM: the first component of a kernel PCA with a sigmoid kernel (Karmani 2024, https://arxiv.org/abs/2410.00267).

    Args:
        activations: as in :func:`eigen_cam`.
        size: as in :func:`eigen_cam`.
        normalize: as in :func:`eigen_cam`.
        gamma: scales the products in ``tanh(gamma * x.y + 1)``; None takes 1 / C.

    Returns:
        As :func:`eigen_cam`.

    Raises:
        ValueError: a shape or size that does not fit, a ``gamma`` that is not finite.
        TypeError: a dtype that is not floating.
    """
    size = _checked(activations, size)
    if gamma is not None and not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number or None, got {gamma!r}")
    return call(torch.ops.camfast.kpca_cam.default, activations, size, normalize, gamma)


def _checked(activations: Tensor, size: Size) -> list[int] | None:
    """Checks the activations of the component ops; the size in full."""
    check_floating(activations, "activations")
    shape = activations.shape
    if not 3 <= len(shape) <= 5 or 0 in shape[1:]:
        raise ValueError(
            f"activations must have shape [N, C, *map] with channels and 1 to 3 map dimensions, got {list(shape)}"
        )
    return full_size(size, shape[2:])


def _fake(activations, size=None, normalize=True, gamma=None):
    own = activations.shape[2:] if size is None else size
    return activations.new_empty((activations.shape[0], *own), dtype=result_dtype(activations))


def _fallback(name: str):
    rule = getattr(reference, name)

    def fallback(activations, size=None, normalize=True, *gamma):
        return rule(activations, size, normalize, *gamma).contiguous()

    return fallback


def _save(ctx, inputs, output) -> None:
    activations, _, ctx.normalize, *gamma = inputs
    ctx.save_for_backward(activations)
    ctx.gamma = gamma


def _backward(name: str):
    """The backward of ``camfast::eigen_cam`` and ``camfast::kpca_cam``, by first-order perturbation of the eigenvector.

    Where the two largest eigenvalues agree there is no derivative, and what is returned is not finite or zero.
    """

    def backward(ctx, grad: Tensor):
        (activations,) = ctx.saved_tensors
        op = getattr(torch.ops.camfast, name).default
        with torch.amp.autocast(activations.device.type, enabled=False):
            raw = op(activations, None, False, *ctx.gamma)
            grad_map = finish_backward(grad, raw, activations.ndim - 2, ctx.normalize, relu=ctx.normalize)
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


for _name in __all__:
    register(_name, _fake, _fallback(_name), _backward(_name), _save)
