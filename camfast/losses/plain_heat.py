"""Heat that is little and smooth: sparsity and total variation."""

from __future__ import annotations

from torch import Tensor

from .heat import Reduction, checked, reduced

__all__ = ["sparsity", "total_variation"]


def sparsity(heat: Tensor, *, weights: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """The mean of the heat's absolute values, which keeps it to few places (Fong 2017, https://arxiv.org/abs/1704.03296).

    ``mean over positions of |heat|``.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean of heat in [0, 1], or a value per map; 0 for a blank one.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for heat that is not finite, which names the images, and weights that do not fit it.
    """
    return reduced(checked(heat).abs().mean((-2, -1)), weights, reduction)


def total_variation(heat: Tensor, *, weights: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """The mean difference of neighbours, which makes heat smooth (Rudin 1992, in the form along the axes; Fong 2017,
    https://arxiv.org/abs/1704.03296).

    ``mean of |heat[y + 1, x] - heat[y, x]| + mean of |heat[y, x + 1] - heat[y, x]|``. Neighbours are closer at larger sizes:
    it is best taken at the layer's own, ``size="map"``.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 2] for the mean of heat in [0, 1], or a value per map; 0 for a blank one, and along an axis of one
        position.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for heat that is not finite, which names the images, and weights that do not fit it.
    """
    heat = checked(heat)
    down, across = heat.diff(dim=-2).abs(), heat.diff(dim=-1).abs()
    pairs = (down.shape[-2] * down.shape[-1] or 1, across.shape[-2] * across.shape[-1] or 1)
    return reduced(down.sum((-2, -1)) / pairs[0] + across.sum((-2, -1)) / pairs[1], weights, reduction)
