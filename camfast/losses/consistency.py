"""Heat that moves with the image: a flipped, cut or scaled image has its heat flipped, cut or scaled."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .heat import Reduction, checked, in_own_range, reduced, same_maps
from .views import View

__all__ = ["heat_consistency"]


def heat_consistency(
    heat: Tensor,
    other: Tensor,
    view: View | None = None,
    *,
    kind: Literal["l1", "l2"] = "l1",
    rescale: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The difference between the view of an image's heat and the heat of the image's view.

    ``mean over positions of |view(heat) - other|`` (Wang 2020, SEAM, https://arxiv.org/abs/2004.04581), or of its square, as
    visual attention consistency (Guo 2019, CVPR)::

        view = losses.View.random(size=224)
        heat = explainer(images, labels, differentiable=True).heatmap
        other = explainer(view(images), labels, differentiable=True).heatmap
        loss = losses.heat_consistency(heat, other, view)

    Args:
        heat: of the images, ``[N, H, W]`` or ``[N, K, H, W]``.
        other: of their views, of the same targets; of any size, to which the view of ``heat`` is brought.
        view: what was done to the images; None: nothing that moves places, as a change of colours.
        kind: ``"l1"`` or ``"l2"``, the absolute difference or its square.
        rescale: bring each map to [0, 1] by its own range, the view of ``heat`` too: a window need not hold the hottest
            place. False compares the values as they are, for raw maps.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean where heat is rescaled, or a value per map.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for heat that is not finite, which names the images, other maps than those of ``heat``, and weights that
            do not fit.
    """
    if kind not in ("l1", "l2"):
        raise ValueError(f"kind must be 'l1' or 'l2', got {kind!r}")
    heat = checked(heat, graph=not getattr(other, "requires_grad", False))
    other = checked(other, "other", graph=False)
    same_maps(heat, other, "other")
    size = (other.shape[-2], other.shape[-1])
    seen = (view or View())(heat, size) if view is not None or heat.shape != other.shape else heat
    if rescale:
        seen, other = in_own_range(seen), in_own_range(other)
    off = (seen - other.to(seen.dtype)).abs()
    return reduced((off if kind == "l1" else off.square()).mean((-2, -1)), weights, reduction)
