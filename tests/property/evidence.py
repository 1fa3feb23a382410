"""Images in which one place alone carries evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .choices import Choices

__all__ = ["Place", "pictures"]


@dataclass(frozen=True)
class Place:
    """A box ``[start, end)`` along each axis of the image, in positions; and whether the rest is exactly zero."""

    start: tuple[int, ...]
    end: tuple[int, ...]
    alone: bool

    def outside(self, sizes: Sequence[int], whole: Sequence[int], reach: Sequence[float]) -> Tensor:
        """Bool ``[*sizes]``: positions of a map of an image ``whole`` that cannot see the box from ``reach`` away."""
        near = torch.ones(tuple(sizes), dtype=torch.bool)
        for axis, (count, length) in enumerate(zip(sizes, whole, strict=True)):
            step = length / count
            low, high = self.start[axis] - reach[axis] - step, self.end[axis] + reach[axis] + step
            centre = (torch.arange(count) + 0.5) * step
            shape = [1] * len(sizes)
            shape[axis] = count
            near &= ((centre > low) & (centre < high)).view(shape)
        return ~near


def pictures(
    choose: Choices, key: str, batch: int, channels: int, size: tuple[int, ...], rng: torch.Generator
) -> tuple[Tensor, list[Place]]:
    """Images ``[batch, channels, *size]`` and where in each the evidence lies."""
    alone = choose(f"{key}background", ["noise", "noise", "zero"]) == "zero"
    x = torch.zeros(batch, channels, *size) if alone else 0.05 * torch.randn(batch, channels, *size, generator=rng)
    places = []
    for i in range(batch):
        lengths = [max(2, n // 4) for n in size]
        starts = [int(torch.randint(0, n - m + 1, (), generator=rng)) for n, m in zip(size, lengths, strict=True)]
        box = tuple(slice(a, a + m) for a, m in zip(starts, lengths, strict=True))
        x[(i, slice(None), *box)] += 1.5 + torch.randn(channels, *lengths, generator=rng)
        places.append(Place(tuple(starts), tuple(a + m for a, m in zip(starts, lengths, strict=True)), alone))
    return x, places
