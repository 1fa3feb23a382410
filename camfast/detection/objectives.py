"""What is explained of the boxes that are kept: scores, box quality or masks; each box, or a class as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..brief import Brief
from .candidates import Candidates
from .inputs import Place
from .keep import Kept

__all__ = ["Explain", "Objective", "objective_of"]

Explain = Literal["score", "quality", "mask"]


@dataclass(repr=False)
class Objective(Brief):
    """What is explained in one image: D entries, made of M numbers with a graph.

    ``boxes`` ``[D, 4]``, ``labels`` ``[D]`` and ``scores`` ``[D]`` describe the entries; ``values`` ``[M]`` are the numbers,
    and ``shares`` ``[D, M]`` how much of each an entry takes. ``masks`` bool ``[D, H, W]``, on the image. ``places`` ``[D]``
    are the entries among ``among`` candidates, where each is one of them.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    values: Tensor
    shares: Tensor
    masks: Tensor | None = None
    places: Tensor | None = None
    among: int = 0

    @classmethod
    def none(cls, kept: Kept) -> Objective:
        """Of an image without a box."""
        empty = kept.scores.new_zeros(0)
        return cls(kept.boxes, kept.labels, kept.scores, empty, empty.reshape(0, 0))

    def __len__(self) -> int:
        return len(self.labels)


def objective_of(
    candidates: Candidates, image: int, kept: Kept, explain: Explain, each: bool, place: Place
) -> Objective:
    """What is explained in ``image``.

    Raises ``ValueError`` where the detector has no box quality, or no masks.
    """
    planes = None
    if candidates.masks is not None and len(kept):
        planes = _inside(candidates.masks(image, kept.index, kept.boxes), kept.boxes, place.seen)
    if explain == "quality":
        if candidates.quality is None:
            raise ValueError(
                "explain='quality' needs a detector that says whether there is an object, got one that does not"
            )
        values = candidates.quality[image][kept.index]
    elif explain == "mask":
        if candidates.masks is None:
            raise ValueError("explain='mask' needs a detector that gives masks, got one that does not")
        values = kept.scores[:0] if planes is None else _means(planes)
    else:
        values = candidates.explained(image, kept.index, kept.labels)
    masks = None
    if candidates.masks is not None:
        masks = _on_image(planes, place) if planes is not None else _no_masks(kept, place)
    shares = torch.eye(len(kept), device=values.device, dtype=values.dtype)
    if each and explain == "score":
        places, among = candidates.places(image, kept.index, kept.labels)
        return Objective(kept.boxes, kept.labels, kept.scores, values, shares, masks, places, among)
    if each:
        return Objective(kept.boxes, kept.labels, kept.scores, values, shares, masks)
    labels = torch.tensor(list(dict.fromkeys(kept.labels.tolist())), dtype=torch.int64, device=kept.labels.device)
    member = kept.labels[None] == labels[:, None]  # [classes, D]
    groups = [member[k].nonzero()[:, 0] for k in range(len(labels))]
    hulls = [torch.cat([kept.boxes[g, :2].amin(0), kept.boxes[g, 2:].amax(0)]) for g in groups]
    return Objective(
        torch.stack(hulls) if hulls else kept.boxes,
        labels,
        torch.stack([kept.scores[g].amax() for g in groups]) if groups else kept.scores,
        values,
        member.to(values.dtype),
        torch.stack([masks[g].any(0) for g in groups]) if masks is not None and groups else masks,
    )


def _inside(planes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``[D, h, w]``, below 0 outside their boxes."""
    height, width = planes.shape[1:]
    y = (torch.arange(height, device=planes.device) + 0.5) * (size[0] / height)
    x = (torch.arange(width, device=planes.device) + 0.5) * (size[1] / width)
    left, top, right, bottom = (boxes.detach().to(y)[:, k, None] for k in range(4))
    inside = ((y >= top) & (y <= bottom))[:, :, None] & ((x >= left) & (x <= right))[:, None]
    return torch.where(inside, planes, -1)


def _means(planes: Tensor) -> Tensor:
    """The mean of each mask where it is above 0; of one that nowhere is, its greatest value. ``[D]``."""
    inside = (planes.detach() > 0).to(planes.dtype)
    count = inside.sum((1, 2))
    means = (planes * inside).sum((1, 2)) / count.clamp(min=1)
    return torch.where(count > 0, means, planes.amax((1, 2)))


def _on_image(planes: Tensor, place: Place) -> Tensor:
    planes = planes.detach().float()
    if tuple(planes.shape[1:]) != place.seen:
        planes = F.interpolate(planes[None], place.seen, mode="bilinear", align_corners=False)[0]
    top, left = round(place.corner[0]), round(place.corner[1])
    height, width = (round(extent * scale) for extent, scale in zip(place.size, place.scale, strict=True))
    planes = planes[:, top : top + height, left : left + width]
    if tuple(planes.shape[1:]) != place.size:
        planes = F.interpolate(planes[None], place.size, mode="bilinear", align_corners=False)[0]
    return planes > 0


def _no_masks(kept: Kept, place: Place) -> Tensor:
    return torch.zeros(0, *place.size, dtype=torch.bool, device=kept.boxes.device)
