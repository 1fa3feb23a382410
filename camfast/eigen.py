"""Maps of principal components that depend on the target: Eigen-CAM of activations weighted by gradients.

The component itself is :func:`camfast.ops.eigen_cam`'s: one op, which never makes a singular value decomposition.
"""

from __future__ import annotations

from torch import Tensor

from . import ops

__all__ = ["eigen_grad_cam", "seg_eigen_cam"]


def eigen_grad_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Eigen-CAM of gradient times activation. ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``."""
    return _weighted(activations, gradients, size, normalize)


def seg_eigen_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Seg-Eigen-CAM: Eigen-CAM of absolute gradient times activation (Chung 2025, eq. 10 to 13).

    https://doi.org/10.3390/app15137562.
    ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``.
    """
    return _weighted(activations, gradients.abs(), size, normalize)


def _weighted(activations: Tensor, gradients: Tensor, size, normalize: bool) -> Tensor:
    if not isinstance(gradients, Tensor) or gradients.ndim < activations.ndim:
        got = list(gradients.shape) if isinstance(gradients, Tensor) else type(gradients).__name__
        raise ValueError(f"gradients must have the shape of the activations {list(activations.shape)}, got {got}")
    if activations.dtype.itemsize < 4:  # products of halves may overflow
        activations, gradients = activations.float(), gradients.float()
    if gradients.ndim == activations.ndim:
        return ops.eigen_cam(activations * gradients, size, normalize)
    maps = ops.eigen_cam((activations.unsqueeze(1) * gradients).flatten(0, 1), size, normalize)
    return maps.unflatten(0, gradients.shape[:2])
