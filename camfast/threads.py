"""Two threads beside the main one: items made ahead of it, and items dealt with behind it.

Both hand over through a bounded queue, carry exceptions to the caller, and are gone when ``close`` returns.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Ahead", "Behind"]

T = TypeVar("T")
_END = object()
_PATIENCE = 0.1  # seconds between looks at whether the other side has gone


class Ahead(Generic[T]):
    """The items of ``source``, made up to ``size`` ahead in a thread; what ``source`` raises is raised by ``next``."""

    def __init__(self, source: Iterator[T], size: int = 8, name: str = "ahead") -> None:
        self._source = source
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"camfast-{name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item: Any = _END if self._stop.is_set() else self._queue.get()
        if item is _END:
            self.close()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stops the thread, after the item it is making, and waits for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            self._put(_END)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False


class Behind(Generic[T]):
    """Calls ``work`` for each item in a thread, in order.

    What it raises is raised by each ``put`` until :meth:`raise_error` or :meth:`close` has raised it; items that come in
    between are dropped.
    """

    def __init__(self, work: Callable[[T], None], size: int = 8, name: str = "behind") -> None:
        self._work = work
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"camfast-{name}", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hands ``item`` over; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def raise_error(self) -> None:
        """Raises what ``work`` raised, once; after that items are dealt with again."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits until all is done and the thread has ended."""
        if self._thread.is_alive():
            self._queue.put(_END)
            self._thread.join()
        self.raise_error()

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            if self._error is None:  # after an error items are only taken away, so that no one waits for room
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error
