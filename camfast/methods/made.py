"""What was made of a model as it is, such as a CUDA graph: found again by what it is for, gone when the model is another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import nn

from ..errors import reason
from ..model.restored import Restored
from ..model.watched import Watched
from .recent import Recent

__all__ = ["Made", "Refused"]

T = TypeVar("T")

_REFUSALS = 64


class Refused(str):
    """Why a thing could not be made."""


class Made(Generic[T]):
    """Things made of one model, by keys; those used last, ``limit`` of them. Threads may share it.

    Args:
        limit: how many things are kept.
    """

    def __init__(self, limit: int) -> None:
        self._things: Recent[T] = Recent(limit)
        self._refusals: Recent[Refused] = Recent(_REFUSALS)
        self._watched: Watched | None = None
        self._values = False  # whether the values of the weights are watched
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def __len__(self) -> int:
        return len(self._things)

    def find(self, key: Hashable) -> T | Refused | None:
        """What was made for ``key``, or why nothing could be; None where it was not tried."""
        with self._lock:
            found = self._things.get(key)
            return self._refusals.get(key) if found is None else found

    def holds(self, now: Watched, values: bool) -> bool:
        """Whether the model is ``now`` what it was, so that all that was made of it may be used; if not, it is forgotten.

        With ``values`` the things hold copies of the weights' values, which must be the same too.
        """
        with self._lock:
            if self._watched is not None and self._values == values and self._watched.same(now):
                return True
            self._things.clear()
            self._refusals.clear()
            self._watched, self._values = now.keep(values), values
            return False

    def make(self, key: Hashable, model: nn.Module, make: Callable[[], T | None], values: bool) -> T | Refused | None:
        """What ``make`` makes for ``key``, or why it failed; None where it makes nothing now, where it is not yet due, and where
        another thread is at it.
        """
        with self._lock:
            if not self._things.is_due(key):
                return None
        made: T | Refused | None
        with Restored() as restored:
            mine: list[bool] = []
            restored.back(lambda: self._making.release() if mine and mine.pop() else None)
            mine.append(self._making.acquire(blocking=False))
            if not mine[0]:
                return None
            try:
                made = make()
            except Exception as error:  # whatever a model, a compiler or a device has against it
                made = Refused(reason(error))
        after = Watched(model)
        with self._lock:
            if self._watched is None or not self._watched.same_weights(after):
                return None  # changed meanwhile, by another thread
            self._watched = after.keep(values)  # with what the passes themselves have noted on the model
            if isinstance(made, Refused):
                self._refusals.put(key, made)
            elif made is not None:
                self._things.put(key, made)
        return made
