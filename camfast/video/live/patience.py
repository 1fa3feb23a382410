"""A slow explanation that can be watched and called off: between two operations of PyTorch someone looks at the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["CalledOff", "Watched"]

_EVERY = 0.3  # seconds between reports


class CalledOff(BaseException):
    """The explanation was called off. No ``Exception``: a search that tries one layer after the other would go on."""


class Watched(TorchFunctionMode):
    """In its ``with`` block, operations of this thread are counted, and ``off`` is asked whether to go on.

    Args:
        off: whether to call off; then :class:`CalledOff` is raised out of an operation, once, so that what puts a model
            back as it was can run.
        report: called now and then with the number of operations done and the seconds taken.
        limit: seconds after which it is called off anyway; None: never.

    Attributes:
        done: operations so far.
    """

    def __init__(
        self,
        off: Callable[[], bool],
        report: Callable[[int, float], None] | None = None,
        limit: float | None = None,
    ) -> None:
        super().__init__()
        self.done = 0
        self._off, self._report, self._limit = off, report, limit
        self._start = self._reported = time.monotonic()
        self._raised = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.done += 1
        now = time.monotonic()
        if not self._raised and (self._off() or (self._limit is not None and now - self._start > self._limit)):
            self._raised = True
            raise CalledOff("the explanation was called off")
        if self._report is not None and now - self._reported > _EVERY:
            self._reported = now
            self._report(self.done, now - self._start)
        return func(*args, **(kwargs or {}))
