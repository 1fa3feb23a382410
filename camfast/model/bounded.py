"""A dictionary that forgets what was put in first once it is full, for what is found out by shape, of which there is no end."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Bounded"]

K = TypeVar("K")
V = TypeVar("V")


class Bounded(dict[K, V]):
    """A ``dict`` of at most ``limit`` entries."""

    def __init__(self, limit: int = 256) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > self.limit:
            first = next(iter(list(self)))  # a list: other threads may put something in meanwhile
            self.pop(first, None)  # type: ignore[arg-type]

    def setdefault(self, key: K, default: V = None) -> V:  # type: ignore[assignment]
        """As a dictionary's, forgetting as every entry does."""
        if key not in self:
            self[key] = default
        return self[key]
