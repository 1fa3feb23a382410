"""What viewers ask for, until a frame has tried it: one viewer's wish at a time, so that a mistake is its viewer's alone."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Wishes"]


class Wishes:
    """Settings that were asked for and not yet tried, oldest first; what a viewer adds belongs to the wish it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Any, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, who: Any, name: str, value: Any) -> None:
        """``who``, a viewer or None, wishes setting ``name`` to be ``value``, which the engine has checked."""
        with self._lock:
            self._waiting[who] = {**self._waiting.pop(who, {}), name: value}

    def take(self) -> tuple[Any, dict[str, Any]] | None:
        """The oldest wish, which no longer waits: who has it, and settings by name."""
        with self._lock:
            if not self._waiting:
                return None
            who = next(iter(self._waiting))
            return who, self._waiting.pop(who)

    def forget(self, who: Any) -> None:
        """``who`` has gone."""
        with self._lock:
            self._waiting.pop(who, None)

    def over(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``settings`` as they will be when all wishes are fulfilled."""
        with self._lock:
            for wish in self._waiting.values():
                settings = {**settings, **wish}
        return settings
