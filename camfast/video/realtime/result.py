"""What the engine returns for a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...brief import few
from ...ops.colormaps import ALPHA, COLORMAP
from ...pictures.frames import Box, as_frames, draw
from .boxes import Found, named, painted

__all__ = ["RealtimeResult"]


@dataclass(eq=False, repr=False)
class RealtimeResult:
    """What :class:`Realtime` returns for a frame, or for N of them (then everything has N as its first dimension).

    Attributes:
        picture: the overlay as the engine drew it (see :meth:`overlay`).
        heatmap: float32 ``[(K,) h, w]`` in [0, 1], at the layer's own resolution; it covers :attr:`box` of the frame.
        scores: of the classes, ``[classes]``, of the last frame that was explained: the network's output, or what is made of
            it where it has further axes, each class's probability in its best box or query, or its share of the picture.
            Empty where nothing tells which axis is that of the classes.
        targets: the classes explained, int64 scalar or ``[K]``; a list of callables where these were asked for.
        milliseconds: from the call to the finished overlay.
        box: ``(left, top, right, bottom)``: the part of the frame that the network saw, in pixels.
        explained: False where an earlier map was drawn again (``every``, ``paused``).
        class_names: names of the classes where they are known.
        exclusive: whether a softmax of :attr:`scores` gives probabilities; False: they are some already.
        found: with ``detect``, the boxes that were kept, their labels and scores (:class:`Found`); a list of N for N frames.
            The heatmap is then, everywhere, the hottest of theirs; the scores are each class's best box's, and the targets
            the boxes' labels.
    """

    picture: Tensor
    heatmap: Tensor
    scores: Tensor
    targets: Tensor | list[Any]
    milliseconds: float
    box: Box
    explained: bool = True
    class_names: Sequence[str] | None = None
    exclusive: bool = True
    found: Found | list[Found] | None = None

    def overlay(self, frames: Any = None, colormap: str | Tensor | None = None, alpha: float | None = None) -> Tensor:
        """The frame with the heat over it: the picture that the engine drew, or one over other ``frames``.

        Args:
            frames: RGB uint8 pictures of the frame's size, as in :meth:`camfast.Explanation.overlay`. None gives what was
                drawn already, in the engine's own colours and strength.
            colormap, alpha: of a picture over ``frames``; None: "inferno" and 0.6.

        Returns:
            uint8 ``[H, W, 3]``, or ``[K, H, W, 3]`` for K classes; where the frames came from: memory or a device.

        Raises:
            ValueError: colours without frames to draw on, or frames of another number or size.
        """
        if frames is None:
            if colormap is not None or alpha is not None:
                raise ValueError(
                    "expected frames to draw on with colormap= or alpha=, got none; the engine drew this picture "
                    "already, and its own colormap and alpha hold from the next frame on"
                )
            return self.picture
        heat, many = self.heatmap, self.picture.shape[:-3]
        size = tuple(self.picture.shape[-3:-1])
        given = as_frames(frames, 1 if self.scores.ndim == 1 else len(self.scores), heat.device)
        if tuple(given.shape[1:3]) != size:
            raise ValueError(f"expected frames of {size[0]} x {size[1]} pixels, got {list(given.shape)}")
        each = given.repeat_interleave(many.numel() // len(given), 0)
        heat = heat.flatten(0, -3) if heat.ndim > 2 else heat[None]
        look = COLORMAP if colormap is None else colormap, ALPHA if alpha is None else alpha
        if self.found is None:
            return draw(each, heat, self.box, *look).reshape(self.picture.shape)
        pictures = [painted(*drawn, self._name, *look) for drawn in zip(each, heat, self._found(), strict=True)]
        return torch.stack(pictures).reshape(self.picture.shape)

    def __repr__(self) -> str:
        """Such as ``RealtimeResult('tabby' 0.65: picture [300, 451, 3], heatmap [7, 7], 8.3 ms)``."""
        named = [f"{name!r}" if math.isnan(score) else f"{name!r} {score:.2f}" for name, score in self.labels()[:3]]
        again = "" if self.explained else ", an earlier map"
        return (
            f"RealtimeResult({few(named, len(self.labels())) or 'nothing found'}: picture {list(self.picture.shape)}, "
            f"heatmap {list(self.heatmap.shape)}, {self.milliseconds:.1f} ms{again})"
        )

    def ranking(self, count: int = 5) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes, names (or numbers) and probabilities; of N frames, the last one's."""
        values, ids = self.probabilities().sort(descending=True)
        if self.found is not None:  # what was not found has no probability
            values, ids = values[values > 0], ids[values > 0]
        return [(self._name(i), p) for p, i in zip(values[:count].tolist(), ids[:count].tolist(), strict=True)]

    def labels(self) -> list[tuple[str, float]]:
        """Name and probability of each class that is explained, in the order of the maps; of N frames, the last one's.

        Of a detector's frame each box's, the surest first.
        """
        if self.found is not None:
            _, labels, scores = self._found()[-1]
            return [(self._name(i), s) for i, s in zip(labels.tolist(), scores.tolist(), strict=True)]
        if not isinstance(self.targets, Tensor):
            return [(getattr(t, "__name__", type(t).__name__), float("nan")) for t in self.targets[-1:]]
        probabilities = self.probabilities()
        last = self.targets if self.scores.ndim == 1 else self.targets[-1]
        return [(self._name(i), probabilities[i].item()) for i in last.reshape(-1).tolist()]

    def probabilities(self) -> Tensor:
        """Each class's probability, float32 ``[classes]`` on the CPU; of N frames, the last one's."""
        scores = (self.scores if self.scores.ndim == 1 else self.scores[-1]).float().cpu()
        return scores.softmax(0) if self.exclusive else scores

    def _name(self, number: int) -> str:
        return named(self.class_names, number)

    def _found(self) -> list[Found]:
        return [] if self.found is None else self.found if isinstance(self.found, list) else [self.found]
