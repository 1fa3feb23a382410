"""Non-negative matrix factorisation by coordinate descent, on the device that holds the matrix.

The steps, the start and the end are those of scikit-learn's ``NMF(init="random", random_state=seed)``, so that the
factors are the same up to rounding. Within one column the coordinates do not depend on each other: a step here updates
a whole column at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["factorize"]


def factorize(
    X: Tensor, components: int, seed: int = 0, steps: int = 200, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """``W`` ``[n, components]`` and ``H`` ``[components, m]``, none of them negative, with ``W @ H`` near ``X`` ``[n, m]``.

    ``X`` must be floating, finite and not negative. At most ``steps`` rounds of W and H, until what a round would still
    change has fallen below ``tolerance`` times that of the first (Cichocki 2009, https://doi.org/10.1587/transfun.E92.A.708).
    """
    rng = np.random.RandomState(seed)
    scale = (X.mean() / components).sqrt()

    def start(*shape: int) -> Tensor:
        return scale * torch.from_numpy(np.abs(rng.standard_normal(shape))).to(X)

    H = start(components, X.shape[1]).t().contiguous()  # [m, components]
    W = start(X.shape[0], components)
    first = 0.0
    for step in range(steps):
        violation = float(_round(W, X, H) + _round(H, X.t(), W))
        first = violation if step == 0 else first
        if violation <= tolerance * first:
            break
    return W, H.t()


def _round(W: Tensor, X: Tensor, H: Tensor) -> Tensor:
    """One step for each column of ``W`` in turn, in place, towards ``W @ H.t() = X``; returns how far from done it was."""
    gram, product = H.t() @ H, X @ H
    violation = W.new_zeros(())
    for k in range(W.shape[1]):
        column = W[:, k]
        gradient = W @ gram[:, k] - product[:, k]
        violation += torch.where(column == 0, gradient.clamp(max=0), gradient).abs().sum()
        curvature = gram[k, k]
        column.copy_(torch.where(curvature != 0, (column - gradient / curvature).clamp(min=0), column))
    return violation
