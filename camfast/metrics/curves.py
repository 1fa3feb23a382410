"""How fast a score falls as an image's positions are taken away in order of heat, and how fast it comes back.

Deletion and insertion (Petsiuk 2018, section 4.1, https://arxiv.org/abs/1806.07421).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..brief import Brief
from ..methods.scoring import counted
from ..model.inputs import Images
from ..targets import ClassNames, Targets
from .heat import Heat
from .scores import Score, Scored

__all__ = ["Cover", "Curve", "curve_of", "curves", "deletion", "heat_ranks", "insertion"]

Cover = Literal["zeros", "mean", "blur"] | Tensor | Callable[[Tensor], Tensor]
"""What stands where nothing of the image is shown: 0, the image's mean, the image blurred; or a tensor that broadcasts to the
images, or a callable that makes one of them."""

_STEPS = 20
_BLUR = 11, 5.0  # pixels and standard deviation of the paper's kernel


@dataclass(repr=False)
class Curve(Brief):
    """Scores at each share of positions.

    Attributes:
        shares: ``[M]``, from 0 to 1: of how many positions, the hottest first.
        scores: ``[N, M]``, or ``[N, K, M]`` for K targets an image; NaN where the heat is not finite.
    """

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> Tensor:
        """The area under each curve by trapezoids, ``[N]`` or ``[N, K]``."""
        return torch.trapezoid(self.scores, self.shares.to(self.scores), dim=-1)


def deletion(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    steps: int = _STEPS,
    cover: Cover = "zeros",
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Curve:
    """The score while the hottest positions are covered first (Petsiuk 2018). A small area is better.

    Args:
        model: the model that was explained.
        images: ``[N, C, *size]``, as it takes them.
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, *size]`` or ``[N, K, *size]``.
        targets: as explainers take them; None: the explanation's own, or each image's top class.
        steps: of the curve, at most; each changes as many positions. Of equal heat the first in memory counts as hotter.
        cover: what stands in place of what is taken away.
        score: ``"probability"`` or ``"output"``.
        batch_size: changed images per pass; None: as many as fit.
        class_names: for targets by name.

    Returns:
        A :class:`Curve`; its ``area`` is the metric.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    found = Scored(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    return curve_of(found, "deletion", steps, cover)


def insertion(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    steps: int = _STEPS,
    cover: Cover = "blur",
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Curve:
    """The score while the hottest positions are shown first, over a cover (Petsiuk 2018). A large area is better.

    Arguments, result and errors are those of :func:`deletion`; the cover is the image itself, blurred, as in the paper, so
    that no sharp edges tell of the mask's shape.
    """
    found = Scored(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    return curve_of(found, "insertion", steps, cover)


def curve_of(found: Scored, kind: Literal["deletion", "insertion"], steps: int, cover: Cover) -> Curve:
    """The curve of what was found."""
    images, covers, which = found.images, _covers(found.images, cover), found.image_of
    ranks = heat_ranks(found.heat)
    shares, scores = curves(found.scores, images, covers, ranks, which, steps=steps, own=found.own, kinds=(kind,))
    return Curve(shares, found.shaped(scores[kind]))


Scores = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""``(rows [B], changed) -> scores [B]``: the curve that each changed image is of, and what makes those of some indices."""


def curves(
    score: Scores,
    images: Tensor,
    covers: Tensor,
    ranks: Tensor,
    image_of: Tensor | None = None,
    *,
    steps: int,
    own: Tensor,
    kinds: tuple[Literal["deletion", "insertion"], ...] = ("deletion", "insertion"),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Curves for any way of scoring and of covering.

    Args:
        score: scores changed images.
        images: ``[N, C, *size]``. covers: the same shape: what is shown in place of a deleted position.
        image_of: int64 ``[P]``, the image of each curve; None: one each.
        ranks: int64 ``[P, positions]``, the place of each position in the order in which they change (:func:`heat_ranks`).
        steps: in how many steps at most all positions change; each step takes as many.
        own: the scores of the images themselves, ``[P]``.
        kinds: which curves; both share their ends, the image and its cover.

    Returns:
        Shares ``[M]`` from 0 to 1, and the scores ``[P, M]`` of each kind.
    """
    counted(steps, "steps")
    P, positions = ranks.shape
    device = ranks.device
    counts = torch.arange(0, positions, -(-positions // steps), device=device)
    counts = torch.cat([counts, counts.new_tensor([positions])])
    inner = counts[1:-1]
    rows = torch.arange(P, device=device)
    at = torch.cat([inner.repeat(len(kinds) * P), counts.new_zeros(P)])  # positions that show the other picture
    of = torch.cat([rows.repeat_interleave(len(inner)).repeat(len(kinds)), rows])
    each = torch.tensor([kind == "deletion" for kind in kinds], device=device)
    deletes = torch.cat([each.repeat_interleave(P * len(inner)), each.new_zeros(P)])

    def changed(part: Tensor) -> Tensor:
        row = of[part]
        which = row if image_of is None else image_of[row]
        hot = ranks[row] < at[part, None]
        shown = (hot != deletes[part, None]).reshape(len(row), 1, *images.shape[2:])
        return torch.where(shown, images[which], covers[which])

    with torch.no_grad():
        scores = score(of, changed)
    size = P * len(inner)
    everything, nothing = own.detach().unsqueeze(1), scores[len(kinds) * size :].unsqueeze(1)
    found: dict[str, Tensor] = {}
    for turn, kind in enumerate(kinds):
        ends = (everything, nothing) if kind == "deletion" else (nothing, everything)
        between = scores[turn * size : (turn + 1) * size].reshape(P, -1)
        found[kind] = torch.cat([ends[0], between, ends[1]], 1)
    return counts.to(scores.dtype) / positions, found


def heat_ranks(heatmaps: Tensor) -> Tensor:
    """How many positions of each of ``heatmaps`` ``[P, *size]`` are hotter than each: int64 ``[P, positions]``.

    Of equal ones the first counts as hotter.
    """
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _covers(images: Tensor, cover: Cover) -> Tensor:
    """What stands in place of each of ``images`` ``[N, C, *size]``."""
    if callable(cover) and not isinstance(cover, Tensor):
        cover = cover(images)
    if isinstance(cover, Tensor):
        try:
            return cover.detach().to(images).expand_as(images)
        except RuntimeError:
            raise ValueError(
                f"a cover must broadcast to images {list(images.shape)}, got {list(cover.shape)}"
            ) from None
    if cover == "zeros":
        return torch.zeros_like(images)
    if cover == "mean":
        return images.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
    if cover == "blur":
        return _blurred(images)
    raise ValueError(f"cover must be 'zeros', 'mean', 'blur', a tensor or a callable, got {cover!r}")


def _blurred(images: Tensor) -> Tensor:
    """``images`` ``[N, C, *size]`` under a Gaussian window, along each axis in turn; beyond the edge there is nothing, 0."""
    length, sigma = _BLUR
    window = torch.exp(-((torch.arange(length) - length // 2) ** 2) / (2 * sigma**2))
    window = (window / window.sum()).to(images)
    for axis in range(2, images.ndim):
        lines = images.movedim(axis, -1)
        flat = F.conv1d(lines.reshape(-1, 1, lines.shape[-1]), window.view(1, 1, -1), padding=length // 2)
        images = flat.view(lines.shape).movedim(-1, axis)
    return images
