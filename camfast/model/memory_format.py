"""Which memory format a model of convolutions is fastest in, found out on the passes that are made anyway.

On a processor ``channels_last`` mostly wins, by up to a factor of two, and loses where late layers have many channels and
few positions: small images in a ResNet. So the first passes over a shape take turns, and the others are made in the
format that won.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Formats", "formats_of"]

_ROUNDS = 2  # passes in each format before one is settled on; the first also builds what a processor runs
_CLEARLY = 0.95  # how much of channels_last's time the contiguous format must stay below

_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Formats]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Formats:
    """The formats of one model for images of one shape, dtype and device."""

    def __init__(self, settled: bool | None) -> None:
        self.settled = settled  # whether channels_last is taken; None while they take turns
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        self._batch: int | None = None

    def __call__(self, run: Callable[[Tensor], Any], images: Callable[[bool], Tensor]) -> Any:
        """``run(images(channels_last))`` in the format that is fastest, as far as is known.

        A model that cannot take channels_last (a view of what it took to be contiguous) runs on contiguous images.
        """
        channels_last = self.settled
        if channels_last is None:
            channels_last = len(self._seconds[True]) <= len(self._seconds[False])
        batch = images(channels_last)
        start = time.perf_counter()
        try:
            found = run(batch)
        except RuntimeError:
            if not channels_last:
                raise
            self.settled = False
            return run(images(False))
        if self.settled is None:
            self._note(channels_last, len(batch), time.perf_counter() - start)
        return found

    def _note(self, channels_last: bool, batch: int, seconds: float) -> None:
        self._batch = batch if self._batch is None else self._batch
        if batch != self._batch:
            return  # the last batch of an image, which may be smaller
        self._seconds[channels_last].append(seconds)
        if min(map(len, self._seconds.values())) >= _ROUNDS:
            self.settled = min(self._seconds[False]) >= _CLEARLY * min(self._seconds[True])


def formats_of(model: nn.Module, image: Tensor, halves: bool = False) -> Formats:
    """The formats of ``model`` for batches of images such as ``image`` ``[1, ...]``.

    ``halves``: passes are made in 16 bits, whatever the image's dtype; on a GPU channels_last then wins, and only then.
    """
    halves = halves or image.dtype.itemsize == 2
    convolves = image.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules())
    if not convolves or image.device.type not in ("cpu", "cuda"):
        return Formats(False)
    key = (tuple(image.shape[1:]), image.dtype, image.device.type, halves, torch.get_num_threads())
    with _lock:
        own = _known.setdefault(model, {})
        if key not in own:
            own[key] = Formats(None if image.device.type == "cpu" else halves)
        return own[key]
