"""How well a reading of a layer's output explains what planted changes did to it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .layouts import Layout

__all__ = ["WIDTH", "Answer", "Array", "agreement", "along", "leading", "movement", "profile_of", "sharpness"]


WIDTH = 1 / 8  # of a planted change, in each dimension

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answer:
    """How a layer answered to one planted change.

    There are hundreds of readings of a row of tokens, which share the few sums that they are judged by.
    """

    change: Tensor  # |difference|, of the layer's shape for one image, on the CPU
    places: tuple[float | None, ...]  # in shares of the image's dimensions, batch included; None: changed as a whole
    _sums: dict[object, Tensor | Array] = field(default_factory=dict, repr=False)

    def grid(self, layout: Layout) -> Array:
        """``[*map]``: how strongly each position answered."""
        channels = layout.order[1]
        if channels not in self._sums:
            self._sums[channels] = self.change.sum(channels, keepdim=True)
        return layout.view(self._sums[channels]).sum((0, 1)).numpy()  # type: ignore[arg-type]

    def channels(self, layout: Layout) -> Array:
        """``[C]``: how strongly each channel answered."""
        key = layout.order, layout.prefix
        if key not in self._sums:
            self._sums[key] = layout.view(self.change).movedim(1, 0).flatten(1).sum(1).numpy()
        return self._sums[key]  # type: ignore[return-value]


def agreement(layout: Layout, answers: Sequence[Answer], above: float = -math.inf) -> float:
    """From -1 to 1: how well the answers lie where the layout says that the changes were planted.

    Where it is seen to be no more than ``above``, something between the two is returned.
    """
    grids = [answer.grid(layout) for answer in answers]
    places = [[answer.places[axis] for axis in along(layout, answers)] for answer in answers]
    scores = []
    for axis, length in enumerate(layout.map):
        if length == 1:
            continue
        own = [place[axis] for place in places]
        if any(place is None for place in own):
            scores.append(0.0)  # along a dimension that changed as a whole
            continue
        profiles = [profile_of(grid, axis) for grid in grids]
        agreed = _follows(profiles, [((length, place),) for place in own], own)  # type: ignore[misc, arg-type]
        scores.append(1.0 if agreed == 1 and length >= 4 else agreed * math.sqrt((length - 1) / (length + 1)))
    if not scores:
        return 0.0
    score = (min(scores) + sum(scores) / len(scores)) / 2
    if score > above and len(layout.order) - 2 < len(layout.map) and len(scores) > 1 and 0.0 not in scores:
        # Rows of another length fold a line of tokens into another grid: each of its sides may look right by chance.
        sides = [tuple(zip(layout.map, place, strict=True)) for place in places]
        score = min(score, _follows([grid.reshape(-1) for grid in grids], sides))  # type: ignore[arg-type]
    return score


def movement(layout: Layout, answers: Sequence[Answer]) -> float:
    """From -1.5 to 1: how well the centres of the answers move as the changes do, from one change to the next.

    Positions follow their dimension of the image; channels should not. Few answers may agree by chance, where a
    dimension is short; eight hardly do.
    """
    grids = [answer.grid(layout) for answer in answers]
    places = [[answer.places[axis] for axis in along(layout, answers)] for answer in answers]
    found, followed = [], []
    for axis, length in enumerate(layout.map):
        own = [place[axis] for place in places]
        if length == 1:
            continue
        if any(place is None for place in own):
            found.append(0.0)  # along a dimension that changed as a whole
            continue
        followed.append(np.array(own))
        found.append(_correlation(_centres([profile_of(grid, axis) for grid in grids]), followed[-1]))
    if not found:
        return 0.0
    channels = _centres([answer.channels(layout) for answer in answers])
    by_chance = 0.7  # of eight answers
    moved = [abs(_correlation(channels, own)) - by_chance for own in followed]
    return (min(found) + sum(found) / len(found)) / 2 - max([0.0, *moved])


def leading(layout: Layout, answers: Sequence[Answer]) -> int:
    """How many tokens at the start of a line answer to no change more than to others: class tokens and their kin.

    A position answers most to the change that was planted nearest to it.
    """
    side = layout.map.index(max(layout.map))
    places = [answer.places[along(layout, answers)[side]] for answer in answers]
    profiles = np.stack([answer.grid(layout).reshape(-1) for answer in answers])
    profiles = profiles / profiles.sum(1, keepdims=True).clip(min=1e-30)
    count = profiles.shape[1]
    for token in range(count):
        away = [math.inf if place is None else abs(place - (token + 0.5) / count) for place in places]
        if away[int(profiles[:, token].argmax())] <= min(away) + WIDTH:
            return token
    return count


def sharpness(layout: Layout, answers: Sequence[Answer]) -> float:
    """From 0 to 1: how little the answers spread over the layout's positions."""
    found = []
    for answer in answers:
        shares = answer.grid(layout).reshape(-1)
        shares = shares / max(shares.sum(), 1e-300)
        spread = 1 / max(float(np.square(shares).sum()), 1e-300)  # in how many positions it is, were it even there
        found.append(1 - (spread - 1) / max(1, len(shares) - 1))
    return sum(found) / len(found)


def along(layout: Layout, answers: Sequence[Answer]) -> Sequence[int]:
    """The image's dimension that each of the map's follows."""
    rank = len(answers[0].places)
    return layout.along if layout.along is not None else range(rank - len(layout.map), rank)


def profile_of(grid: Array, axis: int) -> Array:
    """The sums over all dimensions of ``grid`` but one."""
    return grid.sum(tuple(other for other in range(grid.ndim) if other != axis))


def _centres(profiles: Sequence[Array]) -> Array:
    """Where in a dimension each answer has its centre."""
    stacked = np.stack(profiles)
    return (stacked @ np.arange(stacked.shape[1])) / stacked.sum(1).clip(min=1e-30)


Sides = tuple[tuple[int, float], ...]
"""Of each side of what is looked at: its length, and where in it a change was planted."""


def _follows(profiles: Sequence[Array], sides: Sequence[Sides], places: Sequence[float] = ()) -> float:
    """From -1 to 1: how well answers have one of the shapes that are expected of changes at ``sides``.

    Of several answers the differences count, so that what is always strong does not. With ``places`` along one side, what
    answers at the place alone agrees wholly, and elsewhere alone not at all.
    """
    alone = [_only_at(profile, places[i]) if places else None for i, profile in enumerate(profiles)]
    if False in alone:
        return -1.0
    if len(profiles) == 1:
        return 1.0 if alone[0] else _best(profiles[0], _alone(sides[0]))
    shares = [profile / max(profile.sum(), 1e-30) for profile in profiles]
    found = []
    for i, j in itertools.combinations(range(len(profiles)), 2):
        both = alone[i] and alone[j]
        found.append(1.0 if both else _best(shares[i] - shares[j], _apart(sides[i], sides[j])))
    return sum(found) / len(found)


def _only_at(profile: Array, place: float) -> bool | None:
    """Whether an answer that is confined to a part of the dimension is at the place; None where it is all over it."""
    answering = profile.nonzero()[0]
    length = len(profile)
    if length < 6 or not len(answering) or len(answering) > 0.75 * length:
        return None
    first, last = int(answering[0]), int(answering[-1])
    if last - first + 1 != len(answering):
        return None
    outside = max(first - (place * length - 0.5), place * length - 0.5 - last)
    return True if outside <= 0.5 else None if outside <= 1.5 else False


# What answers may look like, one row for each shape.


@functools.lru_cache(maxsize=512)
def _shapes(length: int, place: float) -> Array:
    """``[5, length]``: a peak, narrow or wide, or an answer that fades to one side; of sum 1 each."""
    away = (np.arange(length) + 0.5) / length - place
    shapes = [np.exp(-0.5 * (away / width) ** 2) for width in (0.06, 0.12, 0.25)]
    edge = 0.5 / length + WIDTH / 2
    for side in (away, -away):
        shapes.append(np.where(side > -edge, np.exp(-side.clip(min=0) / 0.3), 0))
    rows = np.stack(shapes) + 1e-12
    return rows / rows.sum(1, keepdims=True)


def _products(sides: Sides) -> Array:
    """``[5, positions]``: the shapes of each side multiplied, for a grid as a row."""
    rows = np.ones((1, 1))
    for length, place in sides:
        rows = (rows[:, :, None] * _shapes(length, place)[:, None, :]).reshape(5, -1)
    return rows


@functools.lru_cache(maxsize=512)
def _line(length: int, place: float) -> Array:
    return _centred(_shapes(length, place))


@functools.lru_cache(maxsize=4096)
def _line_apart(length: int, place: float, other: float) -> Array:
    return _centred(_shapes(length, place) - _shapes(length, other))


def _alone(sides: Sides) -> Array:
    """What the answer to one change may look like."""
    return _line(*sides[0]) if len(sides) == 1 else _centred(_products(sides))


def _apart(one: Sides, other: Sides) -> Array:
    """What the difference of the answers to two changes may look like."""
    if len(one) == 1:
        return _line_apart(*one[0], other[0][1])
    return _centred(_products(one) - _products(other))


def _centred(rows: Array) -> Array:
    """Rows of mean 0 and norm 1; of zeros where they are flat."""
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.sqrt(np.square(rows).sum(1, keepdims=True))
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-9)


def _best(profile: Array, shapes: Array) -> float:
    """The largest correlation with one of ``shapes``, of mean 0 and norm 1."""
    profile = profile - profile.mean()
    norm = math.sqrt(float(profile @ profile))
    return float((shapes @ profile).max()) / norm if norm > 1e-12 * (1 + float(np.abs(profile).max())) else 0.0


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 1e-12 * (1 + float(np.abs(a).max())) else 0.0
