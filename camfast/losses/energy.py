"""How much of the heat lies where it should: the energy-based pointing game."""

from __future__ import annotations

import torch
from torch import Tensor

from .heat import BLANK, Reduction, checked, reduced
from .masks import Boxes, Masks, inside_of

__all__ = ["energy_inside", "energy_outside"]


def energy_inside(
    heat: Tensor, masks: Masks | None = None, *, boxes: Boxes | None = None, box_size: tuple[int, int] | None = None
) -> Tensor:
    """The share of each map's heat that lies inside its mask or boxes: the energy-based pointing game.

    ``sum(heat * inside) / sum(heat)`` (Wang 2020, Score-CAM, https://arxiv.org/abs/1910.01279). A measure; the loss is
    ``energy_outside``.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``; what is negative counts as 0.
        masks: where heat may lie, as in ``inside_of``.
        boxes: in place of masks, x0, y0, x1, y1 in pixels.
        box_size: height and width of the picture that the boxes are in; None: the heat's.

    Returns:
        ``[N]`` or ``[N, K]`` in [0, 1]; 0 for a blank map, NaN for an image without annotation, or whose annotation is empty.

    Raises:
        TypeError: for what is no floating tensor, or annotation of another type.
        ValueError: for heat that is not finite, which names the images, and annotation that does not fit it.
    """
    share, present = _share(checked(heat, graph=False), masks, boxes, box_size)
    return torch.where(present, share, torch.nan)


def energy_outside(
    heat: Tensor,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """One minus the share of the heat that lies inside the mask or boxes: the energy-based pointing game as a loss.

    ``1 - sum(heat * inside) / sum(heat)`` (Rao 2023, https://arxiv.org/abs/2303.11932). It does not say where inside the heat
    shall lie: a mask drawn loosely, or a box, is enough.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``; what is negative counts as 0.
        masks: where heat may lie, as in ``inside_of``. An image without annotation, or whose annotation is empty, counts
            nothing.
        boxes: in place of masks, x0, y0, x1, y1 in pixels.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean, or a value per map. A blank map has none of its heat inside: 1.

    Raises:
        TypeError: for what is no floating tensor, or annotation of another type.
        ValueError: for heat that is not finite, which names the images, and annotation or weights that do not fit it.
    """
    share, present = _share(checked(heat), masks, boxes, box_size)
    return reduced(1 - share, weights, reduction, present)


def _share(
    heat: Tensor, masks: Masks | None, boxes: Boxes | None, box_size: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """The share inside of each map, and whether it has an annotation that is not empty."""
    inside, _ = inside_of(heat, masks, boxes, box_size)
    energy = heat.clamp(min=0)
    total = energy.sum((-2, -1))
    some = total > BLANK
    share = torch.where(some, (energy * inside).sum((-2, -1)) / torch.where(some, total, 1), 0)
    return share, (inside.amax((-2, -1)) > 0).expand(share.shape)
