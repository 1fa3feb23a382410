"""Checkpointed regions of a pass, counted in the order they begin, some of them run as if they were none.

Behind a tapped layer a reentrant checkpoint cannot be differentiated by name, and attention must be computed again as it was,
without its fused kernels, which no checkpoint knows of.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint as checkpoints

from .restored import Restored

__all__ = ["Regions"]

_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")  # by version
_NAME = next(name for name in _GENERATORS if hasattr(checkpoints, name))
_lock = threading.RLock()  # of one thread twice where a forgotten pass is put back just then
_counting: set[int] = set()  # passes, over all threads: the first one puts the patches in, the last one takes them out
_before: dict[str, Any] = {}
_here = threading.local()  # .regions: those of the pass that runs in this thread


class Regions:
    """The checkpointed regions of one pass.

    Args:
        plain_from: the number of the first region that runs plainly; None: none does, so far.
        both: whether checkpoints that are not reentrant run plainly too.
    """

    def __init__(self, plain_from: int | None = None, both: bool = False) -> None:
        self.plain_from, self.both = plain_from, both
        self.begun = 0
        self._open: list[int] = []

    @property
    def current(self) -> int | None:
        """The outermost region that the pass is in just now."""
        return self._open[0] if self._open else None

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Regions that begin in this thread meanwhile are this object's."""
        with Restored() as restored:
            own = id(restored)
            restored.back(lambda: _end(own))
            with _lock:
                if not _counting:
                    _before.update(generator=getattr(checkpoints, _NAME), function=checkpoints.CheckpointFunction)
                _counting.add(own)
                setattr(checkpoints, _NAME, _generator)
                checkpoints.CheckpointFunction = _Function  # type: ignore[assignment, misc]
            restored.set(_here, "regions", self)
            yield

    @contextlib.contextmanager
    def _one(self) -> Iterator[bool]:
        """A region; whether it runs plainly."""
        number = self.begun
        self.begun += 1
        self._open.append(number)
        try:
            yield self.plain_from is not None and number >= self.plain_from
        finally:
            self._open.pop()

    def around(self, make: Callable[[], Any]) -> Iterator[None]:
        """What surrounds a region that is not reentrant."""
        with self._one() as plain:
            if plain and self.both:
                yield
            else:
                yield from make()

    def reentrant(self, function: Callable[..., Any], preserve: bool, args: Any) -> Any:
        """The result of a reentrant region."""
        with self._one() as plain:
            return function(*args) if plain else _before["function"].apply(function, preserve, *args)


def _end(own: int) -> None:
    with _lock:
        if own in _counting and _counting == {own}:
            setattr(checkpoints, _NAME, _before["generator"])
            checkpoints.CheckpointFunction = _before["function"]  # type: ignore[misc]
        _counting.discard(own)


def _generator(*args: Any, **options: Any) -> Any:
    regions = getattr(_here, "regions", None)
    make = lambda: _before["generator"](*args, **options)  # noqa: E731
    return make() if regions is None else regions.around(make)


class _Function:
    """Stands for reentrant checkpointing meanwhile."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        regions = getattr(_here, "regions", None)
        if regions is None:
            return _before["function"].apply(function, preserve, *args)
        return regions.reentrant(function, preserve, args)
