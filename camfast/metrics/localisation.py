"""Whether heat lies on the object: pointing game, energy inside, overlap. Against masks or boxes; the model is not asked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import losses
from ..losses.masks import Boxes, Masks, inside_of
from .heat import Heat, heat_tensor

__all__ = ["energy_inside", "iou", "pointing_game"]


def pointing_game(
    heat: Heat,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    tolerance: int = 0,
) -> Tensor:
    """1 where the hottest position lies on the object, else 0, ``[N]`` or ``[N, K]`` (Zhang 2018, https://arxiv.org/abs/1608.00507).

    Args:
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]`` or ``[N, K, H, W]``. Of several hottest positions
            one on the object is enough, as in Quantus.
        masks: where the object is: ``[N, h, w]``, ``[N, 1, h, w]`` or ``[N, K, h, w]``, bool or in [0, 1], or a list of one an
            image. They are resized to the heat by area; a position of more than half is on the object.
        boxes: in place of masks, x0, y0, x1, y1 in pixels: ``[N, 4]``, ``[N, B, 4]``, or a list of ``[4]`` or ``[B, 4]``.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        tolerance: pixels by which a miss still counts; the paper's is 15.

    Returns:
        NaN where there is no object, or the heat is not finite.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int) or tolerance < 0:
        raise ValueError(f"tolerance must be a number of pixels from 0 on, got {tolerance!r}")
    planes, inside, known = _both(heat, masks, boxes, box_size)
    if tolerance:
        steps = torch.arange(-tolerance, tolerance + 1, device=planes.device)
        disk = (steps[:, None] ** 2 + steps**2 <= tolerance**2).to(planes)[None, None]
        near = F.conv2d(inside.to(planes).flatten(0, -3).unsqueeze(1), disk, padding=tolerance)[:, 0] > 0.5
        inside = near.view(inside.shape)
    hottest = planes == planes.amax((-2, -1), keepdim=True)
    return (hottest & inside).any(-1).any(-1).to(planes.dtype).where(known, torch.nan)


def energy_inside(
    heat: Heat,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
) -> Tensor:
    """The share of the heat that lies on the object, ``[N]`` or ``[N, K]``: the energy-based pointing game.

    ``sum(heat * inside) / sum(heat)`` (Wang 2020, Score-CAM, section 4.3, https://arxiv.org/abs/1910.01279); Quantus calls it
    relevance mass accuracy. What is negative counts as 0, and of a mask's or a box's edge the share of a position that it
    covers; 0 for a blank map. Arguments and errors as :func:`pointing_game`; NaN where there is no object, or the heat is not
    finite.
    """
    planes = heat_tensor(heat)
    known = planes.isfinite().flatten(-2).all(-1)
    finite = planes.where(known[..., None, None], 0)
    return losses.energy_inside(finite, masks, boxes=boxes, box_size=box_size).where(known, torch.nan)


def iou(
    heat: Heat,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Intersection over union of the object and of where the heat is at least ``threshold`` of its maximum, ``[N]`` or ``[N, K]``.

    Arguments and errors as :func:`pointing_game`; 0 for a blank map, NaN where there is no object, or the heat is not finite.
    For boxes around the heat see :func:`max_box_acc`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a share of the heat's maximum above 0 and up to 1, got {threshold!r}")
    planes, inside, known = _both(heat, masks, boxes, box_size)
    top = planes.amax((-2, -1), keepdim=True)
    hot = (planes >= threshold * top) & (top > 0)
    both, either = (hot & inside).sum((-2, -1)), (hot | inside).sum((-2, -1))
    return (both / either.clamp(min=1)).to(planes.dtype).where(known, torch.nan)


def _both(
    heat: Heat, masks: Masks | None, boxes: Boxes | None, box_size: tuple[int, int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The heat, which of its positions are on the object, and for which planes there is both."""
    planes = heat_tensor(heat)
    if planes.ndim not in (3, 4):
        raise ValueError(f"heat must be [N, H, W] or [N, K, H, W], got {list(planes.shape)}")
    known = planes.isfinite().flatten(-2).all(-1)
    inside = inside_of(planes, masks, boxes, box_size)[0] > 0.5
    known = known & inside.any(-1).any(-1)
    return planes.where(planes.isfinite(), 0), inside.expand(planes.shape), known
