"""Draws that are remembered by name, so that a network can be written down, drawn again, and made simpler."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["Choices", "drawn", "replayed", "shrunk"]

T = TypeVar("T")


class Choices:
    """Chooses among options, and notes under a name what was chosen.

    Options stand from the simplest to the strangest; one that stands there twice is chosen twice as often.

    Args:
        pick: called with a name and the number of options; returns an index.
    """

    def __init__(self, pick: Callable[[str, int], int]) -> None:
        self._pick = pick
        self._asked: set[str] = set()
        self.made: dict[str, Any] = {}

    def __call__(self, name: str, options: Sequence[T]) -> T:
        """One of ``options``. Each name is asked for once; the first option goes without saying in ``made``."""
        assert name not in self._asked, name
        self._asked.add(name)
        chosen = options[self._pick(name, len(options)) if len(options) > 1 else 0]
        if chosen != options[0]:
            self.made[name] = chosen
        return chosen


def drawn(seed: int) -> Choices:
    """Choices that a seed determines."""
    rng = random.Random(seed)
    return Choices(lambda name, count: rng.randrange(count))


class _Replay(Choices):
    def __init__(self, wanted: Mapping[str, Any]) -> None:
        super().__init__(lambda name, count: 0)
        self.wanted = dict(wanted)

    def __call__(self, name: str, options: Sequence[T]) -> T:
        wanted = self.wanted.get(name, options[0])
        self._pick = lambda name, count: options.index(wanted) if wanted in options else 0
        return super().__call__(name, options)


def replayed(made: Mapping[str, Any]) -> Choices:
    """The choices of ``made`` again. What is not named there, or is no option any more, is the first option."""
    return _Replay(made)


def shrunk(made: Mapping[str, Any], fails: Callable[[Mapping[str, Any]], bool], tries: int = 400) -> dict[str, Any]:
    """A simpler network that still fails: one choice after another becomes the first option, while ``fails`` holds."""
    best = dict(made)
    progress = True
    while progress and tries > 0:
        progress = False
        for name in list(best):
            without = {key: value for key, value in best.items() if key != name}
            tries -= 1
            if tries > 0 and fails(without):
                best, progress = without, True
    return best
