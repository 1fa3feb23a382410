"""What keeps a heatmap calm from frame to frame: an average of the maps, and a class that does not flicker.

Everything is arithmetic on small tensors, in place and without a look at their values, so that it runs inside a CUDA
graph. The frames of a batch are taken as consecutive frames of one stream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...targets import Policy

__all__ = ["Fixed", "Smoother", "Top"]

RANGE_EPS = 1e-7  # as in reference.min_max
SCENE_GRID = 8  # a frame is compared with the one before it in 8 x 8 places
SCENE_CUT = 0.6  # their mean difference at a cut, in standard deviations of the network's training images


class Top(Policy):
    """The ``k`` classes of highest score (None: the highest, without a dimension of its own).

    With ``sticky``, a probability, the class of the last frame stays until another one's is higher by more than that.
    It applies to ``k=None`` alone.
    """

    def __init__(self, k: int | None = None, sticky: float = 0.0) -> None:
        self.k, self.sticky = k, sticky
        self._last: Tensor | None = None  # [1], the class of the last frame, -1 before the first

    def reset(self) -> None:
        """Forgets the last class: after a scene cut, or when the network changes."""
        if self._last is not None:
            self._last.fill_(-1)

    def pick(self, scores: Tensor) -> Tensor:
        """Class numbers ``[N]``, or ``[N, k]``, of ``scores`` ``[N, classes]``."""
        if self.k is not None:
            if self.k > scores.shape[1]:
                raise ValueError(f"TopK({self.k}) needs at least {self.k} classes, got {scores.shape[1]}")
            return scores.topk(self.k, 1).indices
        top = scores.argmax(1)
        if not self.sticky or scores.shape[1] < 2:
            return top
        if self._last is None or self._last.device != scores.device:
            self._last = torch.full((1,), -1, dtype=torch.int64, device=scores.device)
        probabilities = scores.float().softmax(1)
        best = probabilities.gather(1, top[:, None])[:, 0]
        chosen = []
        for n in range(len(scores)):
            own = probabilities[n].gather(0, self._last.clamp(min=0, max=scores.shape[1] - 1))
            # Written so that a NaN probability lets go of the class.
            stays = (self._last >= 0) & (best[n] - own <= self.sticky)
            self._last.copy_(torch.where(stays, self._last, top[n : n + 1]))
            chosen.append(self._last.clone())
        return torch.cat(chosen)


class Fixed(Policy):
    """The same classes for every frame: an int, or several for maps side by side."""

    def __init__(self, classes: int | list[int]) -> None:
        self.classes = classes
        self._ids: Tensor | None = None

    def pick(self, scores: Tensor) -> Tensor:
        """Class numbers ``[N]`` or ``[N, K]``. Raises ``ValueError`` for a class that the scores do not have."""
        listed = [self.classes] if isinstance(self.classes, int) else self.classes
        wrong = [number for number in listed if not 0 <= number < scores.shape[1]]
        if wrong:
            raise ValueError(f"targets must be classes from 0 to {scores.shape[1] - 1}, got {wrong[0]}")
        if self._ids is None or self._ids.device != scores.device:
            self._ids = torch.tensor(self.classes, device=scores.device)
        return self._ids.expand(len(scores), *self._ids.shape)


class Smoother:
    """Maps averaged over time, ``share * before + (1 - share) * now``, and so their normalisation range.

    A scene cut, a change of shape or a map that is not finite starts anew.
    """

    def __init__(self) -> None:
        self._maps: Tensor | None = None  # [(K,) h, w]
        self._top: Tensor | None = None  # [(K,) 1, 1]
        self._scene: Tensor | None = None  # [3, grid, grid]
        self._share: Tensor | None = None

    def reset(self) -> None:
        """Forgets what was averaged; in place, since a captured graph may know these tensors."""
        if self._top is not None:
            self._top.fill_(torch.nan)  # what a past that is not known looks like

    def set_share(self, share: float, device: torch.device) -> None:
        """Sets the share of the past; on the device, so that a captured graph sees the change."""
        if self._share is None or self._share.device != device:
            self._share = torch.tensor(share, device=device)
        self._share.fill_(share)

    def __call__(self, maps: Tensor, images: Tensor, stretch: bool = True) -> Tensor:
        """``maps``, raw and signed, ``[N, (K,) h, w]``, smoothed and in [0, 1]; ``images`` are the network's inputs.

        ``stretch=False`` is for maps that are in [0, 1] already: what is gone from them fades away.
        """
        maps = maps.clamp(min=0)
        scenes = F.adaptive_avg_pool2d(images.float(), SCENE_GRID)
        if self._maps is None or self._maps.shape != maps.shape[1:] or self._maps.device != maps.device:
            self._maps = torch.full_like(maps[0], torch.nan)
            self._top = torch.full_like(self._range(maps[0]), torch.nan)
            self._scene = torch.zeros_like(scenes[0])
        assert self._top is not None and self._scene is not None and self._share is not None
        smoothed = []
        for now, scene in zip(maps, scenes, strict=True):
            same = (scene - self._scene).abs().mean() < SCENE_CUT
            self._scene.copy_(scene)
            top = self._range(now)
            # Before the first frame the past is NaN, and so it is after a map that was not finite.
            known = same & self._top.isfinite()
            self._maps.copy_(torch.where(known, torch.lerp(now, self._maps, self._share), now))
            self._top.copy_(torch.where(known, torch.lerp(top, self._top, self._share), top))
            if not stretch:
                smoothed.append(self._maps.clamp(max=1))  # a copy
                continue
            low = self._maps.amin((-2, -1), keepdim=True)
            smoothed.append(((self._maps - low) / (self._top + RANGE_EPS)).clamp(max=1))
        return torch.stack(smoothed)

    @staticmethod
    def _range(maps: Tensor) -> Tensor:
        return maps.amax((-2, -1), keepdim=True) - maps.amin((-2, -1), keepdim=True)
