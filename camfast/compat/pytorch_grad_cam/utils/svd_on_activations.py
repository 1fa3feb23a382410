"""First principal components of activations, by camfast's ops.

The sign of a component is arbitrary. LAPACK's, which the original returns, changes with the library and the machine; here
the entry of largest magnitude is positive. In strict mode the decomposition is numpy's, with its sign.
"""

from __future__ import annotations

import numpy as np
import torch

from .... import ops
from ....errors import require
from ..strictness import is_strict

__all__ = ["get_2d_projection", "get_2d_projection_kernel", "get_2d_projection_with_sign_correction"]


def get_2d_projection(activation_batch: np.ndarray) -> np.ndarray:
    """Each image's activations ``[N, C, *map]`` on their first component: float32 ``[N, *map]``. NaN counts as 0."""
    if is_strict():
        return np.asarray([_by_lapack(activations) for activations in _without_nan(activation_batch)], np.float32)
    return _by_op(ops.eigen_cam, activation_batch)


def get_2d_projection_with_sign_correction(activation_batch: np.ndarray) -> np.ndarray:
    """The same, turned so that the entry of largest magnitude is positive."""
    return _by_op(ops.eigen_cam, activation_batch)


def get_2d_projection_kernel(
    activation_batch: np.ndarray, kernel: str = "sigmoid", gamma: float | None = None
) -> np.ndarray:
    """The first component of a kernel PCA: float32 ``[N, *map]``. Kernels other than the sigmoid need scikit-learn."""
    x = _without_nan(activation_batch)
    flat = x.reshape(*x.shape[:2], -1)
    flat = flat - flat.mean(2, keepdims=True)
    if kernel == "sigmoid":
        rows = torch.from_numpy(np.ascontiguousarray(flat)).unsqueeze(2)
        return ops.kpca_cam(rows, None, False, gamma).float().numpy().reshape(x.shape[0], *x.shape[2:])
    pca = require("sklearn.decomposition", "compat").KernelPCA(n_components=1, kernel=kernel, gamma=gamma)
    return np.asarray([pca.fit_transform(image.T).reshape(x.shape[2:]) for image in flat], np.float32)


def _by_op(op, batch: np.ndarray) -> np.ndarray:
    return op(torch.from_numpy(np.ascontiguousarray(_without_nan(batch))), None, False).float().numpy()


def _by_lapack(activations: np.ndarray) -> np.ndarray:
    rows = activations.reshape(activations.shape[0], -1).T
    rows = rows - rows.mean(0)
    return (rows @ np.linalg.svd(rows, full_matrices=True)[2][0]).reshape(activations.shape[1:])


def _without_nan(batch: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(batch), np.zeros((), batch.dtype), batch)
