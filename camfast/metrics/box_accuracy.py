"""MaxBoxAcc: boxes around heat against the object's boxes, at the threshold that serves all images best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..brief import Brief
from ..losses.masks import Boxes
from .heat import Heat, heat_tensor
from .level_regions import regions_of

__all__ = ["MaxBoxAcc", "found_of", "max_box_acc", "overlaps_of"]

_THRESHOLDS = 100
_DELTA = 0.5


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
    def found(self) -> Tensor:
        """``[N]``: 1 where the object is found at the :attr:`best` threshold, else 0; of several deltas their mean.

        With one delta its mean is the metric. NaN for an image without a box.
        """
        overlaps = self.iou[:, int(self.accuracy.mean(0).argmax())]
        hits = torch.stack([overlaps >= delta for delta in self.deltas]).to(self.iou.dtype).mean(0)
        return hits.where(overlaps.isfinite(), torch.nan)

    @property
    def best(self) -> float:
        """The threshold at which the mean accuracy is highest."""
        return float(self.thresholds[self.accuracy.mean(0).argmax()])


def max_box_acc(
    heat: Heat,
    boxes: Boxes,
    *,
    box_size: tuple[int, int] | None = None,
    deltas: Sequence[float] = (_DELTA,),
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
        scaled = (plane - low) / (high - low).clamp(min=torch.finfo(plane.dtype).tiny)
        # How many of the levels each position is above: one number tells in which of them it is hot.
        above = torch.searchsorted(levels, scaled.contiguous())
        rows.append(_best_overlaps(above.cpu().numpy(), thresholds, truth.cpu(), regions == "all").to(planes))
    found = torch.stack(rows) if rows else planes.new_zeros(0, len(levels))
    return MaxBoxAcc(levels, found, tuple(deltas))


def overlaps_of(heat: Heat, boxes: Boxes, box_size: tuple[int, int] | None) -> Tensor:
    """The overlaps at each threshold of some images: ``[N, T]``, of several targets an image ``[N, K, T]``."""
    planes = heat_tensor(heat)
    if planes.ndim == 3:
        return max_box_acc(planes, boxes, box_size=box_size).iou
    return torch.stack([max_box_acc(each, boxes, box_size=box_size).iou for each in planes.unbind(1)], 1)


def found_of(overlaps: Tensor) -> Tensor:
    """Which objects are found at the threshold that serves all images best, ``[N]`` or ``[N, K]``, of :func:`overlaps_of`."""
    levels = torch.arange(overlaps.shape[-1], dtype=overlaps.dtype) / overlaps.shape[-1]
    return MaxBoxAcc(levels, overlaps.flatten(0, -2), (_DELTA,)).found.view(overlaps.shape[:-1])


def _best_overlaps(above: np.ndarray, levels: int, truth: Tensor, every: bool) -> Tensor:
    """At each of ``levels``, the best overlap of a box around a region with one of ``truth``: ``[levels]``."""
    found = regions_of(above, levels)
    best = truth.new_zeros(levels)
    if not every:
        # By level the largest ones come first; of equal ones that which ends first.
        order = np.lexsort((-found.sizes, found.levels))
        found = found.some(order[np.unique(found.levels[order], return_index=True)[1]])
    if len(found.levels):
        overlaps = _overlaps(torch.from_numpy(found.boxes).to(truth), truth).amax(1)
        best.scatter_reduce_(0, torch.from_numpy(found.levels), overlaps, "amax")
    return best


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[A, 4]`` and ``[B, 4]``: ``[A, B]``."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return both / (areas[0][:, None] + areas[1] - both)
