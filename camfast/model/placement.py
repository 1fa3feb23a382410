"""Where over the images a layer's map lies: all over them, as a map is drawn, or over a part, or mirrored.

A model that crops, pads or flips its images itself has maps of what it made of them:

    image      |--------------------|
    cropped         |----------|            its map is drawn over the whole image, twice as wide as it is
    changes          *   *    *             planted at 0.30, 0.50, 0.70
    answers         0.1  0.5  0.9           a line of slope 2, where slope 1 is expected
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .evidence import Answer, Array, along, profile_of
from .layouts import Layout

__all__ = ["ELSEWHERE", "PREPARED", "Side", "is_off", "sides", "words"]

_SIDE = 6  # positions of a side; among fewer a strided network's own shift is as large as what is looked for
_OFF = (0.05, 0.9)  # from where one answer lies too far from its change: shares of the side, and positions
_VALLEY = 0.1  # of a peak: no answer
_AWAY = (0.15, 1.0)  # the same of a map's end, as several answers tell
_FITS = 0.97  # correlation of answers and changes along a side
_SCALE = 0.15  # a map as wide as the image: what looks back in time answers later, all along
_LEAST = 3  # answers

PREPARED = "explain the part of the model behind its own cropping, padding or flipping, with images prepared alike"
ELSEWHERE = "what changes in one place of an image changes the output of layer {name!r} elsewhere"


class Side(NamedTuple):
    """What one side of a map covers of the image's dimension ``axis``, in shares of it; ``start`` > ``end``: mirrored."""

    axis: int
    start: float
    end: float


def is_off(layout: Layout, answer: Answer) -> bool:
    """Whether an answer lies so far from its change, or in another place too, that the map may not cover the image."""
    for index, axis in enumerate(along(layout, [answer])):
        length, place = layout.map[index], answer.places[axis]
        if length < _SIDE or place is None:
            continue
        strengths = profile_of(answer.grid(layout), index)
        if abs(_peak(strengths) - place) > max(_OFF[0], _OFF[1] / length) or _is_twofold(strengths):
            return True
    return False


def sides(layout: Layout, answers: Sequence[Answer]) -> list[Side]:
    """The sides of a map that cover another part of the image than all of it, as far as answers agree on it."""
    found = []
    for index, axis in enumerate(along(layout, answers)):
        length, places = layout.map[index], [answer.places[axis] for answer in answers]
        if length < _SIDE or None in places:
            continue
        peaks = np.array([_peak(profile_of(answer.grid(layout), index)) for answer in answers])
        changes = np.array(places, dtype=np.float64)
        inside = np.abs(peaks - 0.5) < 0.5 - 0.6 / length  # at a border lies what came from beyond it, too
        peaks, changes = peaks[inside], changes[inside]
        if len(peaks) < _LEAST or min(np.ptp(peaks), np.ptp(changes)) < 0.1:
            continue
        if abs(np.corrcoef(peaks, changes)[0, 1]) < _FITS:
            continue
        scale, start = np.polyfit(peaks, changes, 1)
        away = max(abs(start), abs(start + scale - 1))
        if abs(scale - 1) > _SCALE and away > max(_AWAY[0], _AWAY[1] / length):
            found.append(Side(axis, float(start), float(start + scale)))
    return found


def words(name: str, found: Sequence[Side], rank: int) -> str:
    """What is to be said of a map that covers ``found`` of an image of ``rank`` dimensions."""
    names = {2: "height", 3: "width"} if rank == 4 else {}
    parts = []
    for axis, start, end in found:
        of = f"the {names[axis]}" if axis in names else f"dimension {axis} of the image"
        low, high = (round(100 * share / 5) * 5 for share in sorted((start, end)))
        whole = (low, high) == (0, 100)
        parts.append(f"{'all' if whole else f'about {low} to {high} %'} of {of}{', mirrored' if start > end else ''}")
    return f"the map of layer {name!r} covers {' and '.join(parts)}, as changes planted in the image show"


def _is_twofold(strengths: Array) -> bool:
    """Whether an answer has a second peak behind a valley."""
    first, last = _above(strengths, _VALLEY)
    outside = np.concatenate([strengths[:first], strengths[last + 1 :]])
    return bool(outside.max(initial=0) > strengths.max() / 2)


def _peak(strengths: Array) -> float:
    """Where in a dimension an answer is strongest, in shares of it: the centre of what is above half of its peak."""
    first, last = _above(strengths, 0.5)
    weights = strengths[first : last + 1] - strengths.max() / 2
    return float(((np.arange(first, last + 1) + 0.5) @ weights) / max(weights.sum(), 1e-300)) / len(strengths)


def _above(strengths: Array, share: float) -> tuple[int, int]:
    """The first and the last position around the strongest one that reach ``share`` of it."""
    first = last = int(strengths.argmax())
    bound = share * strengths[first]
    while first > 0 and strengths[first - 1] > bound:
        first -= 1
    while last < len(strengths) - 1 and strengths[last + 1] > bound:
        last += 1
    return first, last
