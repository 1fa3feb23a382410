"""What the engine returns for a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...pictures.frames import Box

__all__ = ["RealtimeResult"]


@dataclass(eq=False)
class RealtimeResult:
    """What :class:`Realtime` returns for a frame, or for N of them (then everything has N as its first dimension).

    Attributes:
        overlay: uint8 ``[H, W, 3]``, or ``[K, H, W, 3]`` for K classes; where the frames came from: memory or a device.
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
    """

    overlay: Tensor
    heatmap: Tensor
    scores: Tensor
    targets: Tensor | list[Any]
    milliseconds: float
    box: Box
    explained: bool = True
    class_names: Sequence[str] | None = None
    exclusive: bool = True

    def ranking(self, count: int = 5) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes, names (or numbers) and probabilities; of N frames, the last one's."""
        values, ids = self.probabilities().sort(descending=True)
        return [(self._name(i), p) for p, i in zip(values[:count].tolist(), ids[:count].tolist(), strict=True)]

    def labels(self) -> list[tuple[str, float]]:
        """Name and probability of each class that is explained, in the order of the maps; of N frames, the last one's."""
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
        return f"class {number}" if self.class_names is None else str(self.class_names[number])
