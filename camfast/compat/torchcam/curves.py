"""How fast a score falls as an image's positions are taken away in order of heat, and how fast it comes back.

Deletion and insertion (Petsiuk 2018, https://arxiv.org/abs/1806.07421), for any way of scoring and of covering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Curves", "curves", "heat_ranks"]

Score = Callable[[Tensor, Tensor], Tensor]
"""``(images [B, C, *size], rows [B]) -> scores [B]``: changed images, and which of the batch each one was made of."""


class Curves(NamedTuple):
    """Scores at each share of positions."""

    shares: Tensor  # [M], from 0 to 1
    deletion: Tensor  # [N, M], that share of the image covered, the hottest first
    insertion: Tensor  # [N, M], that share of it shown, the hottest first

    def areas(self) -> tuple[Tensor, Tensor]:
        """The areas under both curves, ``[N]`` each."""
        return torch.trapezoid(self.deletion, self.shares, dim=1), torch.trapezoid(self.insertion, self.shares, dim=1)


def heat_ranks(heatmaps: Tensor) -> Tensor:
    """How many positions of each of ``heatmaps`` ``[N, *size]`` are hotter than each: int64 ``[N, P]``.

    Of equal ones the first counts as hotter.
    """
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def curves(
    score: Score,
    images: Tensor,
    covers: Tensor,
    ranks: Tensor,
    *,
    steps: int = 20,
    batch_size: int = 32,
    own_scores: Tensor | None = None,
) -> Curves:
    """Deletion and insertion curves of ``images``.

    Args:
        score: scores changed images; called without a graph.
        images: ``[N, C, *size]``. covers: the same shape: what is shown in place of a deleted position.
        ranks: int64 ``[N, P]``, the place of each position in the order in which they change (:func:`heat_ranks`).
        steps: in how many steps at most all P positions change; each step takes as many.
        batch_size: changed images scored at once.
        own_scores: those of the images themselves, ``[N]``, where known.
    """
    N, P = ranks.shape
    device = ranks.device
    counts = torch.arange(0, P, -(-P // steps), device=device)
    counts = torch.cat([counts, counts.new_tensor([P])])

    # A curve's ends are the image and its cover, which both curves share.
    inner = counts[1:-1]
    rows = torch.arange(N, device=device)
    at = torch.cat([inner.repeat(2 * N), counts.new_zeros(N)])  # positions that show the other picture
    of = torch.cat([rows.repeat_interleave(len(inner)).repeat(2), rows])
    deletes = torch.arange(len(at), device=device) < N * len(inner)
    if own_scores is None:
        at, of = torch.cat([at, counts.new_full((N,), P)]), torch.cat([of, rows])
        deletes = torch.cat([deletes, deletes.new_zeros(N)])

    found = []
    with torch.no_grad():
        for k in range(0, len(at), batch_size):
            own = of[k : k + batch_size]
            hot = ranks[own] < at[k : k + batch_size, None]
            shown = (hot != deletes[k : k + batch_size, None]).reshape(len(own), 1, *images.shape[2:])
            found.append(score(torch.where(shown, images[own], covers[own]), own))
        scores = torch.cat(found)
    size = N * len(inner)
    deletion, insertion = scores[:size].reshape(N, -1), scores[size : 2 * size].reshape(N, -1)
    nothing = scores[2 * size : 2 * size + N, None]
    everything = (scores[2 * size + N :] if own_scores is None else own_scores.detach()).unsqueeze(1)
    return Curves(
        counts.to(scores.dtype) / P,
        torch.cat([everything, deletion, nothing], 1),
        torch.cat([nothing, insertion, everything], 1),
    )
