"""Maps along the first principal component of a layer's activations, by the smaller Gram matrix.

Each image's activations are a matrix of S positions by C channels. Its first right singular vector comes from the
eigenvectors of the S x S or the C x C Gram matrix, whichever is smaller, in fp64: a 7 x 7 map of 2048 channels needs a
49 x 49 eigenproblem instead of a singular value decomposition with 2048 vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops

__all__ = ["eigen_cam", "eigen_grad_cam", "kpca_cam", "project", "project_kernel", "seg_eigen_cam"]

_DENSE = 400  # up to this size the full eigenproblem is faster than the iteration
_STEPS = 320  # Lanczos vectors before the full eigenproblem takes over
_TIE = 1e-9  # entries whose magnitudes differ by less are equally large


def eigen_cam(activations: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Eigen-CAM: the projection on the first principal component (Muhammad 2020, https://arxiv.org/abs/2008.00299).

    Args:
        activations: ``[N, C, *map]``, a map of one to three dimensions. NaN counts as 0; an image with Inf gets NaN.
        size: the heatmap's size, an int for all dimensions, or None for the map's own.
        normalize: ReLU, min-max, resize, min-max; False resizes the raw, signed map.

    Returns:
        ``[N, *size]``, float32 (float64 for fp64), in [0, 1] when normalised. The sign of a component is arbitrary:
        here the entry of largest magnitude is positive.

    Raises:
        ValueError: a shape that does not fit. TypeError: a dtype that is not floating.
    """
    return _finish(project(activations), size, normalize)


def eigen_grad_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Eigen-CAM of gradient times activation. ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``."""
    return _weighted(activations, gradients, size, normalize)


def seg_eigen_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Seg-Eigen-CAM: Eigen-CAM of absolute gradient times activation (Chung 2025, eq. 10 to 13).

    https://doi.org/10.3390/app15137562.
    ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``.
    """
    return _weighted(activations, gradients.abs(), size, normalize)


def kpca_cam(activations: Tensor, size=None, normalize: bool = True, gamma: float | None = None) -> Tensor:
    """KPCA-CAM: the first component of a kernel PCA with a sigmoid kernel (Karmani 2024, https://arxiv.org/abs/2410.00267).

    ``gamma`` scales the products in ``tanh(gamma * x.y + 1)``; None takes 1 / C. The rest as in :func:`eigen_cam`.
    """
    return _finish(project_kernel(activations, gamma), size, normalize)


def project(features: Tensor) -> Tensor:
    """``[N, *map]``: the centred rows of ``features`` ``[N, C, *map]`` on their first principal component, signed."""
    columns, known = _centred(features)  # [N, C, S]
    channels, positions = columns.shape[1:]
    if positions <= channels:
        value, vector = _top_eigenpair(_where(known, columns.mT @ columns))
        projection = vector * value.clamp(min=0).sqrt().unsqueeze(1)
    else:
        _, vector = _top_eigenpair(_where(known, columns @ columns.mT))
        projection = (vector.unsqueeze(1) @ columns).squeeze(1)
    return _as_map(projection, known, features)


def project_kernel(features: Tensor, gamma: float | None = None) -> Tensor:
    """``[N, *map]``: the first component of the kernel PCA of the rows of ``features`` ``[N, C, *map]``."""
    columns, known = _centred(features)
    products = _where(known, columns.mT @ columns)
    kernel = torch.tanh(products * (1 / columns.shape[1] if gamma is None else gamma) + 1)
    kernel = kernel - kernel.mean(1, keepdim=True) - kernel.mean(2, keepdim=True) + kernel.mean((1, 2), keepdim=True)
    value, vector = _top_eigenpair(kernel)
    return _as_map(vector * value.clamp(min=0).sqrt().unsqueeze(1), known, features)


def _weighted(activations: Tensor, gradients: Tensor, size, normalize: bool) -> Tensor:
    if not isinstance(gradients, Tensor) or gradients.ndim < activations.ndim:
        got = list(gradients.shape) if isinstance(gradients, Tensor) else type(gradients).__name__
        raise ValueError(f"gradients must have the shape of the activations {list(activations.shape)}, got {got}")
    wide = torch.float64 if activations.dtype == torch.float64 else torch.float32
    A, G = activations.to(wide), gradients.to(wide)
    if G.ndim == A.ndim:
        return eigen_cam(A * G, size, normalize)
    maps = eigen_cam((A.unsqueeze(1) * G).flatten(0, 1), size, normalize)
    return maps.unflatten(0, G.shape[:2])


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Channels ``[N, C, S]`` in fp64, each centred over the positions, and which images are finite, ``[N]``."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        got = f"a {features.dtype} tensor" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"activations must be a floating tensor, got {got}")
    if not 3 <= features.ndim <= 5 or 0 in features.shape[1:]:
        raise ValueError(
            f"activations must have shape [N, C, *map] with 1 to 3 map dimensions, got {list(features.shape)}"
        )
    columns = features.flatten(2).to(torch.float64, copy=True)
    columns.nan_to_num_(0.0, posinf=torch.inf, neginf=-torch.inf)
    means = columns.mean(2, keepdim=True)
    known = means.isfinite().flatten(1).all(1)
    return columns.sub_(means), known


def _where(known: Tensor, matrices: Tensor) -> Tensor:
    """Zeros in place of the matrices that are not known: one of them would stop the decomposition of all."""
    return torch.where(known[:, None, None], matrices, 0)


def _as_map(projection: Tensor, known: Tensor, features: Tensor) -> Tensor:
    """``projection`` ``[N, S]`` with a settled sign, as a map; NaN for images that are not known."""
    if projection.numel():
        magnitude = projection.abs()
        largest = magnitude >= (1 - _TIE) * magnitude.amax(1, keepdim=True)
        places = torch.arange(projection.shape[1], device=projection.device)
        first = torch.where(largest, places, projection.shape[1] - 1).amin(1, keepdim=True)
        projection = torch.where(projection.gather(1, first) < 0, -projection, projection)
    projection = torch.where(known.unsqueeze(1), projection, torch.nan)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return projection.to(dtype).unflatten(1, features.shape[2:])


def _finish(maps: Tensor, size, normalize: bool) -> Tensor:
    rank = maps.ndim - 1
    full = tuple(maps.shape[1:]) if size is None else (size,) * rank if isinstance(size, int) else tuple(size)
    if len(full) != rank:
        raise ValueError(f"size must be an int or {rank} numbers for maps {list(maps.shape[1:])}, got {size}")
    return ops.resize_normalize(maps, full, normalize, relu=normalize)


def _top_eigenpair(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue ``[N]`` and its vector ``[N, n]`` of symmetric matrices ``[N, n, n]``."""
    if matrix.shape[1] > _DENSE:
        found = _lanczos(matrix)
        if found is not None:
            return found
    values, vectors = torch.linalg.eigh(matrix)
    return values[:, -1], vectors[:, :, -1]


def _lanczos(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same by Lanczos iteration with full reorthogonalisation; None when it has not converged."""
    batch, n, _ = matrix.shape
    # A fixed start that no structure of images is orthogonal to.
    start = torch.sin(torch.arange(1, n + 1, device=matrix.device, dtype=matrix.dtype) ** 2)
    basis = (start / start.norm()).expand(batch, 1, n)  # [N, steps, n]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(1, min(_STEPS, n) + 1):
        following = (matrix @ basis[:, -1].unsqueeze(2)).squeeze(2)
        diagonal.append((following * basis[:, -1]).sum(1))
        for _ in range(2):  # once more, since rounding leaves a part of the earlier vectors
            following = following - (basis.mT @ (basis @ following.unsqueeze(2))).squeeze(2)
        beside.append(following.norm(dim=1))
        if step % 20 == 0:
            small = torch.diag_embed(torch.stack(diagonal, 1))
            off = torch.stack(beside[:-1], 1)
            small = small + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
            values, vectors = torch.linalg.eigh(small)
            residual = beside[-1] * vectors[:, -1, -1].abs()
            scale = values.abs().amax(1)
            if bool((residual <= 1e-11 * scale).all()):
                return values[:, -1], (basis.mT @ vectors[:, :, -1].unsqueeze(2)).squeeze(2)
        length = beside[-1].unsqueeze(1)
        basis = torch.cat([basis, torch.where(length > 0, following / length.clamp(min=1e-300), 0).unsqueeze(1)], 1)
    return None
