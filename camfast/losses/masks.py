"""Where heat may lie: masks and boxes of any size as shares of the heat's positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Boxes", "Masks", "box_masks", "inside_of", "one_of", "resized_by_area"]

Masks = Tensor | Sequence[Tensor | None]
"""``[N, h, w]``, ``[N, 1, h, w]`` or ``[N, K, h, w]``, or a list of one ``[h, w]`` or ``[K, h, w]`` an image, of any sizes."""

Boxes = Tensor | Sequence[Any]
"""``[N, 4]`` or ``[N, B, 4]``, or a list of one ``[4]`` or ``[B, 4]`` an image; x0, y0, x1, y1 in pixels."""


def inside_of(
    heat: Tensor, masks: Masks | None = None, boxes: Boxes | None = None, box_size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Which share of each position of ``heat`` lies inside the annotation.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``.
        masks: where heat may lie: ``[N, h, w]``, for K targets ``[N, h, w]``, ``[N, 1, h, w]`` or ``[N, K, h, w]``; or a
            list of an image's own each, of any sizes, None where an image has no annotation. Bool; whole numbers, of which
            each but 0 is inside; or floating in [0, 1]. A size other than the heat's is resized to it by area, so that a
            position's value is the share of it that is inside.
        boxes: in place of masks: x0, y0, x1, y1 in pixels, from edge to edge: ``[N, 4]``, ``[N, B, 4]``, or a list of
            ``[4]`` or ``[B, 4]`` each; None or no box where an image has no annotation. Inside is what any box covers.
        box_size: height and width of the picture whose pixels the boxes are in; None: the heat's.

    Returns:
        The shares, in [0, 1], ``[N, H, W]`` or ``[N, 1 or K, H, W]``, as ``heat`` in dtype and device, and bool ``[N]``, the
        images that have an annotation, or None where all do.

    Raises:
        TypeError: for annotation of another type.
        ValueError: for masks or boxes that do not fit the heat, both or neither, and boxes whose ends are the wrong way round.
    """
    one_of(masks, boxes)
    if boxes is not None:
        size = (heat.shape[-2], heat.shape[-1])
        inside, present = box_masks(boxes, box_size or size, size, heat)
        if len(inside) != len(heat):
            raise ValueError(f"boxes must be one list an image, got {len(inside)} for {len(heat)} images")
        return (inside if heat.ndim == 3 else inside[:, None]), present
    if box_size is not None:
        raise ValueError("box_size must come with boxes, got it with masks")
    if isinstance(masks, Tensor):
        return _planes(masks, heat), None
    if not isinstance(masks, (list, tuple)):
        raise TypeError(f"masks must be a tensor or a list of tensors, got {type(masks).__name__}")
    if len(masks) != len(heat):
        raise ValueError(f"masks must be one an image, got {len(masks)} for {len(heat)} images")
    empty = heat.new_zeros(heat.shape[1:])
    alone = [mask if mask is None or not isinstance(mask, Tensor) else mask[None] for mask in masks]
    rows = [empty if mask is None else _planes(mask, heat[:1])[0].expand(heat.shape[1:]) for mask in alone]
    return torch.stack(rows), torch.tensor([mask is not None for mask in masks], device=heat.device)


def one_of(masks: Any, boxes: Any) -> None:
    """Raises ``ValueError`` where not exactly one of the two is given."""
    if (masks is None) == (boxes is None):
        raise ValueError(f"expected masks or boxes, got {'neither' if masks is None else 'both'}")


def box_masks(
    boxes: Boxes, picture: tuple[int, int], size: tuple[int, int] | None = None, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The share of each position that the boxes of an image cover.

    Args:
        boxes: as in ``inside_of``.
        picture: height and width that the boxes are in.
        size: height and width of the result; None: ``picture``.
        like: gives the result's dtype and device; None: fp32 on the CPU.

    Returns:
        ``[N, *size]`` in [0, 1]; where boxes overlap the larger share counts. Bool ``[N]``: which images have a box.

    Raises ``ValueError`` for boxes that are no x0 < x1, y0 < y1.
    """
    (height, width), (h, w) = picture, size or picture
    like = torch.zeros(()) if like is None else like
    rows = [like.new_zeros(0, 4) if own is None else torch.as_tensor(own).to(like).reshape(-1, 4) for own in boxes]
    planes = []
    for image, own in enumerate(rows):
        _check_boxes(own, image)
        x0, y0, x1, y1 = own.unbind(1)
        down, across = (
            _covered(y0 * (h / height), y1 * (h / height), h),
            _covered(x0 * (w / width), x1 * (w / width), w),
        )
        each = down[:, :, None] * across[:, None, :]  # [B, h, w]
        planes.append(each.amax(0) if len(each) else like.new_zeros(h, w))
    present = torch.tensor([len(own) > 0 for own in rows], device=like.device, dtype=torch.bool)
    return (torch.stack(planes) if planes else like.new_zeros(0, h, w)), present


def resized_by_area(planes: Tensor, size: Sequence[int]) -> Tensor:
    """``planes`` ``[..., h, w]`` at ``size``: each new cell is the mean over the area that it covers."""
    if tuple(planes.shape[-2:]) == tuple(size):
        return planes
    down, across = (_cells(length, out, planes) for length, out in zip(planes.shape[-2:], size, strict=True))
    with torch.autocast(planes.device.type, enabled=False):
        return (down @ planes @ across.mT).clamp(0, 1)


def _planes(masks: Tensor, heat: Tensor) -> Tensor:
    """A tensor of masks at the heat's size, ``[N, H, W]`` or ``[N, 1 or K, H, W]``."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be tensors, got {type(masks).__name__}")
    shape = masks.shape
    if heat.ndim == 3 and masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    elif heat.ndim == 4 and masks.ndim == 3:
        masks = masks[:, None]
    fits = masks.ndim == heat.ndim and len(masks) == len(heat) and min(masks.shape[-2:]) > 0
    if not fits or (heat.ndim == 4 and masks.shape[1] not in (1, heat.shape[1])):
        wanted = "[N, h, w]" if heat.ndim == 3 else "[N, h, w], [N, 1, h, w] or [N, K, h, w]"
        raise ValueError(f"masks must be {wanted} for heat {list(heat.shape)}, got {list(shape)}")
    if not masks.is_floating_point():
        masks = masks != 0
    elif (
        not torch.compiler.is_compiling()
        and masks.device.type == "cpu"
        and not bool(((masks >= 0) & (masks <= 1)).all())
    ):
        raise ValueError(f"floating masks must lie in [0, 1], got {masks.min():.3g} to {masks.max():.3g}")
    return resized_by_area(masks.to(heat), heat.shape[-2:])


def _check_boxes(boxes: Tensor, image: int) -> None:
    if torch.compiler.is_compiling() or boxes.device.type != "cpu":
        return
    wrong = ~((boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))
    if bool(wrong.any()):
        got = [round(number, 3) for number in boxes[wrong][0].tolist()]
        raise ValueError(f"boxes must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {got} for image {image}")


def _covered(start: Tensor, end: Tensor, count: int) -> Tensor:
    """``[B, count]``: the share of each of ``count`` cells of length 1 that lies between ``start`` and ``end`` ``[B]``."""
    cells = torch.arange(count, device=start.device, dtype=start.dtype)
    return (torch.minimum(end[:, None], cells + 1) - torch.maximum(start[:, None], cells)).clamp(0, 1)


def _cells(length: int, out: int, like: Tensor) -> Tensor:
    """``[out, length]``: how much of each of ``out`` equal cells lies in each of ``length`` equal pixels; rows sum to 1."""
    edges = torch.arange(out + 1, device=like.device, dtype=torch.float64) * (length / out)
    return (_covered(edges[:-1], edges[1:], length) * (out / length)).to(like.dtype)
