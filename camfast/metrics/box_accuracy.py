"""MaxBoxAcc: boxes around heat against the object's boxes, at the threshold that serves all images best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..brief import Brief
from ..losses.masks import Boxes
from .heat import Heat, heat_tensor

__all__ = ["MaxBoxAcc", "max_box_acc"]

_THRESHOLDS = 100
_AT_ONCE = 2**24  # positions whose regions are sought at the same time


@dataclass(repr=False)
class MaxBoxAcc(Brief):
    """Overlap of boxes at each threshold.

    Attributes:
        thresholds: ``[T]``, shares of each map's range.
        iou: ``[N, T]``: of the best pair of a box around the heat and one of the object; NaN without either.
        deltas: the overlaps that count as found.
    """

    thresholds: Tensor
    iou: Tensor
    deltas: tuple[float, ...]

    @property
    def accuracy(self) -> Tensor:
        """``[D, T]``: the share of images whose overlap is at least each of the deltas."""
        known = self.iou[self.iou.isfinite().all(1)]
        return torch.stack([(known >= delta).double().mean(0) for delta in self.deltas])

    @property
    def value(self) -> float:
        """The metric: the best threshold's accuracy, its mean over the deltas. NaN without an image that has a box."""
        return float(self.accuracy.amax(1).mean())

    @property
    def best(self) -> float:
        """The threshold at which the mean accuracy is highest."""
        return float(self.thresholds[self.accuracy.mean(0).argmax()])


def max_box_acc(
    heat: Heat,
    boxes: Boxes,
    *,
    box_size: tuple[int, int] | None = None,
    deltas: Sequence[float] = (0.5,),
    regions: str = "largest",
    thresholds: int = _THRESHOLDS,
) -> MaxBoxAcc:
    """MaxBoxAcc: whether a box around the heat finds the object (Choe 2020, section 3.2, https://arxiv.org/abs/2001.07437).

    Each map is scaled to [0, 1]. Positions above a threshold fall into regions, touching at sides or corners; a box stands
    around the region of most positions, or around each one.

    Args:
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]``.
        boxes: of the objects, x0, y0, x1, y1 in pixels: ``[N, 4]``, ``[N, B, 4]``, or a list of ``[4]`` or ``[B, 4]``.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        deltas: the overlaps that count: 0.5 alone is MaxBoxAcc, 0.3, 0.5 and 0.7 with ``regions="all"`` MaxBoxAccV2.
        regions: ``"largest"`` or ``"all"``.
        thresholds: how many, evenly from 0.

    Returns:
        A :class:`MaxBoxAcc`, of the whole set of images; its ``value`` is the metric.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    planes = heat_tensor(heat)
    if planes.ndim != 3:
        raise ValueError(f"max_box_acc takes a map per image, [N, H, W], got {list(planes.shape)}")
    if len(boxes) != len(planes):
        raise ValueError(f"boxes must be one list an image, {len(planes)}, got {len(boxes)}")
    if regions not in ("largest", "all"):
        raise ValueError(f"regions must be 'largest' or 'all', got {regions!r}")
    height, width = planes.shape[1:]
    own = box_size or (height, width)
    scale = planes.new_tensor([width / own[1], height / own[0]] * 2)
    levels = torch.arange(thresholds, device=planes.device, dtype=planes.dtype) / thresholds
    rows = []
    for plane, wanted in zip(planes, boxes, strict=True):
        truth = planes.new_zeros(0, 4) if wanted is None else torch.as_tensor(wanted).to(planes).reshape(-1, 4) * scale
        if not len(truth) or not bool(plane.isfinite().all()):
            rows.append(torch.full_like(levels, torch.nan))
            continue
        low, high = plane.aminmax()
        hot = (plane - low) / (high - low).clamp(min=torch.finfo(plane.dtype).tiny) > levels[:, None, None]
        size = max(1, _AT_ONCE // plane.numel())
        rows.append(torch.cat([_best_overlap(part, truth, regions == "all") for part in hot.split(size)]))
    found = torch.stack(rows) if rows else planes.new_zeros(0, len(levels))
    return MaxBoxAcc(levels, found, tuple(deltas))


def _best_overlap(hot: Tensor, truth: Tensor, every: bool) -> Tensor:
    """Of each of ``hot``, bool ``[T, H, W]``, the best overlap of a box around a region with one of ``truth``: ``[T]``."""
    T, H, W = hot.shape
    labels = _regions(hot)  # of a region the greatest of its positions' numbers from 1 on, 0 elsewhere
    flat = (labels + torch.arange(T, device=hot.device)[:, None, None] * (H * W + 1)).flatten()
    count = torch.bincount(flat, minlength=T * (H * W + 1))
    y = torch.arange(H, device=hot.device)[:, None].expand(H, W)
    x = torch.arange(W, device=hot.device).expand(H, W)
    sides = []
    for at, end in ((x, 0), (y, 0), (x + 1, 1), (y + 1, 1)):
        side = torch.full_like(count, 0 if end else max(H, W))
        side.scatter_reduce_(0, flat, at.expand(T, H, W).flatten(), "amax" if end else "amin")
        sides.append(side)
    count = count.view(T, -1)[:, 1:]  # without what is not hot
    found = torch.stack(sides, 1).view(T, -1, 4)[:, 1:].to(truth)
    if every:
        which = count > 0
        boxes, of = found[which], which.nonzero()[:, 0]
    else:
        most = count.argmax(1)
        boxes, of = found[torch.arange(T), most], torch.arange(T, device=hot.device)
        some = count.amax(1) > 0
        boxes, of = boxes[some], of[some]
    best = truth.new_zeros(T)
    if len(boxes):
        best.scatter_reduce_(0, of, _overlaps(boxes, truth).amax(1), "amax")
    return best


def _regions(hot: Tensor) -> Tensor:
    """The number of each position's region, int64 ``[T, H, W]``, 0 where it is not hot.

    Every position takes the greatest number among its neighbours, and then that of the position so numbered, until nothing
    changes: regions of any shape are through in some dozen rounds.
    """
    H, W = hot.shape[1:]
    exact = torch.float32 if H * W < 2**24 else torch.float64  # whole numbers up to here have no rounding
    labels = torch.arange(1, H * W + 1, device=hot.device).view(H, W) * hot
    while True:
        near = F.max_pool2d(labels.to(exact).unsqueeze(1), 3, 1, 1)[:, 0].long() * hot
        flat = F.pad(near.flatten(1), (1, 0))  # the position numbered n is at place n, and 0 stays 0
        jumped = flat.gather(1, flat)[:, 1:].view_as(near)
        if torch.equal(jumped, labels):
            return labels
        labels = jumped


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[A, 4]`` and ``[B, 4]``: ``[A, B]``."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return both / (areas[0][:, None] + areas[1] - both)
