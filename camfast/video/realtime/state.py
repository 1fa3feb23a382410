"""What a stream remembers from frame to frame: the last map, its average over time, and the class that is held."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .settings import Settings, policy
from .temporal import Smoother, Top

__all__ = ["Explained", "Shown", "StreamState"]

Explained = tuple[Tensor, Tensor, Any]
"""Maps ``[N, (K,) h, w]``, scores ``[N, classes]`` and the targets of N frames."""


class Shown(NamedTuple):
    """The outcome of a step, everything with N as its first dimension and on the device."""

    overlay: Tensor
    heat: Tensor
    scores: Tensor
    targets: Any
    explained: bool


class StreamState:
    """The past of one stream, and what is done with it.

    Attributes:
        policy: what picks the targets, and may hold on to the last one.
        smoother: the average of the maps.
        shown: what the last frame became; it outlives :meth:`forget`, since a paused stream shows it.
    """

    def __init__(self) -> None:
        self.policy: Any = None
        self.smoother = Smoother()
        self.shown: Shown | None = None
        self._picks: tuple[Any, ...] | None = None  # targets and stickiness of the policy
        self._smooths = False
        self._latest: Explained | None = None  # of the last explained frame
        self._count = 0  # of frames since then

    def adopt(self, settings: Settings, device: torch.device) -> None:
        """Brings policy and smoother up to ``settings``; other targets begin anew."""
        picks = (settings.targets, settings.sticky)
        if picks != self._picks or self.policy is None:
            self.policy = policy(*picks)
            self._picks = picks
            self.forget()
        if settings.smooth:
            self.smoother.set_share(settings.smooth, device)
        elif self._smooths:
            self.smoother.reset()
        self._smooths = bool(settings.smooth)

    def due(self, count: int, every: int) -> list[int]:
        """Which of the next ``count`` frames are explained."""
        return [n for n in range(count) if (self._latest is None and n == 0) or (self._count + n) % every == 0]

    def spread(self, count: int, due: list[int], fresh: Explained | None) -> Explained:
        """Gives each of ``count`` frames what belongs to the last explained one up to it."""
        latest = self._latest
        if latest is not None and fresh is not None and _shapes(latest) != _shapes(fresh):
            latest = None  # a detector finds more in one frame than in another
        rows = [part for part in (latest, fresh) if part is not None]
        offset = 0 if latest is None else len(latest[0])
        at = [max(offset - 1 + sum(d <= n for d in due), 0) for n in range(count)]
        heat, scores = (torch.cat([row[i] for row in rows])[at] for i in (0, 1))
        if isinstance(rows[0][2], Tensor):
            return heat, scores, torch.cat([row[2] for row in rows])[at]
        listed = [target for row in rows for target in row[2]]
        return heat, scores, [listed[i] for i in at]

    def nothing(self, count: int, images: Tensor) -> Explained:
        """What ``count`` frames show in which a detector found nothing: maps of zeros, and scores of no class."""
        self.smoother.reset()
        size = (1, 1) if self.shown is None else self.shown.heat.shape[1:]
        none = torch.zeros(count, 0, dtype=torch.int64, device=images.device)
        return images.new_zeros(count, *size, dtype=torch.float32), none.to(images.dtype), none

    def keep(self, shown: Shown, every: int) -> None:
        """Remembers what the last frames became."""
        self._count = (self._count + len(shown.heat)) % every
        self._latest = (shown.heat[-1:], shown.scores[-1:], shown.targets[-1:])
        self.shown = shown

    def forget(self) -> None:
        """Begins anew, in place, since a captured graph may know these tensors."""
        self.smoother.reset()
        if isinstance(self.policy, Top):
            self.policy.reset()
        self._latest, self._count = None, 0


def _shapes(explained: Explained) -> list[Any]:
    """The shapes of a frame's maps, scores and targets, where these are numbers."""
    return [part.shape[1:] if isinstance(part, Tensor) else None for part in explained]
