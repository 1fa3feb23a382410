"""Things that are costly to make, for keys that come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Recent"]

T = TypeVar("T")

_REMEMBERED = 64  # keys that are counted, with a thing or without


@dataclass
class _Record(Generic[T]):
    calls: int = 0  # since a thing was made, or given up
    needed: int = 2  # before one is made
    thing: T | None = None


class Recent(Generic[T]):
    """Keeps the ``limit`` things that were used last.

    A thing is due at the second call of its key, so that a key that never comes again costs nothing. One that was given up
    for others is due at the fourth, then at the eighth: where more keys take turns than there is room for, few are made.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._records: OrderedDict[Hashable, _Record[T]] = OrderedDict()

    def __len__(self) -> int:
        """How many things are kept."""
        return sum(record.thing is not None for record in self._records.values())

    def get(self, key: Hashable) -> T | None:
        """The thing of ``key``; None where none was made."""
        record = self._records.get(key)
        if record is None or record.thing is None:
            return None
        self._records.move_to_end(key)
        return record.thing

    def is_due(self, key: Hashable) -> bool:
        """Counts a call of ``key``, which has no thing; whether one is to be made for it now."""
        record = self._records.setdefault(key, _Record())
        self._records.move_to_end(key)
        record.calls += 1
        for oldest in list(self._records)[:-_REMEMBERED]:
            del self._records[oldest]
        return record.calls >= record.needed

    def put(self, key: Hashable, thing: T) -> None:
        """Keeps ``thing``, and gives up the one that was used least lately where there are too many."""
        record = self._records.setdefault(key, _Record())
        self._records.move_to_end(key)
        record.thing = thing
        kept = [record for record in self._records.values() if record.thing is not None]
        for oldest in kept[: -self.limit]:
            oldest.thing, oldest.calls, oldest.needed = None, 0, 2 * oldest.needed

    def clear(self) -> None:
        """Forgets everything."""
        self._records.clear()
