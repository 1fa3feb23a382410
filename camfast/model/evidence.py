"""How well a reading of a layer's output explains what planted changes did to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .layouts import Layout

__all__ = ["WIDTH", "Answer", "agreement", "leading", "movement", "sharpness"]


WIDTH = 1 / 8  # of a planted change, in each dimension


class Answer(NamedTuple):
    """How a layer answered to one planted change."""

    change: Tensor  # |difference|, of the layer's shape for one image
    places: tuple[float | None, ...]  # in shares of the image's dimensions, batch included; None: changed as a whole


def agreement(layout: Layout, answers: Sequence[Answer]) -> float:
    """From -1 to 1: how well the answers lie where the layout says that the changes were planted."""
    grids = [layout.view(answer.change).sum((0, 1)) for answer in answers]
    places = [[answer.places[axis] for axis in _along(layout, answers)] for answer in answers]
    scores = []
    for axis, length in enumerate(layout.map):
        if length == 1:
            continue
        own = [place[axis] for place in places]
        if any(place is None for place in own):
            scores.append(0.0)  # along a dimension that changed as a whole
            continue
        profiles = [grid.movedim(axis, 0).reshape(length, -1).sum(1) for grid in grids]
        agreed = _follows(profiles, [_shapes(length, place) for place in own], own)  # type: ignore[arg-type]
        scores.append(1.0 if agreed == 1 and length >= 4 else agreed * math.sqrt((length - 1) / (length + 1)))
    if not scores:
        return 0.0
    score = (min(scores) + sum(scores) / len(scores)) / 2
    if len(layout.order) - 2 < len(layout.map) and len(scores) > 1 and 0.0 not in scores:
        # Rows of another length fold a line of tokens into another grid: each of its sides may look right by chance.
        shapes = []
        for place in places:
            sides = zip(*(_shapes(n, p) for n, p in zip(layout.map, place, strict=True)), strict=True)  # type: ignore[arg-type]
            shapes.append([torch.cartesian_prod(*side).prod(1) for side in sides])
        score = min(score, _follows([grid.flatten() for grid in grids], shapes))
    return score


def movement(layout: Layout, answers: Sequence[Answer]) -> float:
    """From -1.5 to 1: how well the centres of the answers move as the changes do, from one change to the next.

    Positions follow their dimension of the image; channels should not. Few answers may agree by chance, where a
    dimension is short; eight hardly do.
    """
    views = [layout.view(answer.change) for answer in answers]
    places = [[answer.places[axis] for axis in _along(layout, answers)] for answer in answers]
    found, followed = [], []
    for axis, length in enumerate(layout.map):
        own = [place[axis] for place in places]
        if length == 1:
            continue
        if any(place is None for place in own):
            found.append(0.0)  # along a dimension that changed as a whole
            continue
        followed.append(own)
        found.append(_correlation(_centres(views, 2 + axis), torch.tensor(own, dtype=torch.float64)))
    if not found:
        return 0.0
    channels = _centres(views, 1)
    by_chance = 0.7  # of eight answers
    moved = [abs(_correlation(channels, torch.tensor(own, dtype=torch.float64))) - by_chance for own in followed]
    return (min(found) + sum(found) / len(found)) / 2 - max([0.0, *moved])


def _along(layout: Layout, answers: Sequence[Answer]) -> Sequence[int]:
    """The image's dimension that each of the map's follows."""
    rank = len(answers[0].places)
    return layout.along if layout.along is not None else range(rank - len(layout.map), rank)


def _centres(views: Sequence[Tensor], axis: int) -> Tensor:
    """Where in a dimension each answer has its centre."""
    profiles = torch.stack([view.movedim(axis, 0).flatten(1).sum(1) for view in views])
    index = torch.arange(profiles.shape[1], dtype=profiles.dtype)
    return (profiles @ index) / profiles.sum(1).clamp(min=1e-30)


def leading(layout: Layout, answers: Sequence[Answer]) -> int:
    """How many tokens at the start of a line answer to no change more than to others: class tokens and their kin.

    A position answers most to the change that was planted nearest to it.
    """
    side = layout.map.index(max(layout.map))
    places = [answer.places[_along(layout, answers)[side]] for answer in answers]
    profiles = torch.stack([layout.view(answer.change).sum((0, 1)).flatten() for answer in answers])
    profiles = profiles / profiles.sum(1, keepdim=True).clamp(min=1e-30)
    count = profiles.shape[1]
    for token in range(count):
        away = [math.inf if place is None else abs(place - (token + 0.5) / count) for place in places]
        if away[int(profiles[:, token].argmax())] <= min(away) + WIDTH:
            return token
    return count


def sharpness(layout: Layout, answers: Sequence[Answer]) -> float:
    """From 0 to 1: how little the answers spread over the layout's positions."""
    found = []
    for change, _ in answers:
        shares = layout.view(change).sum((0, 1)).flatten()
        shares = shares / shares.sum()
        spread = float(1 / shares.square().sum())  # in how many positions it is, were it even there
        found.append(1 - (spread - 1) / max(1, len(shares) - 1))
    return sum(found) / len(found)


def _follows(profiles: Sequence[Tensor], shapes: Sequence[list[Tensor]], places: Sequence[float] = ()) -> float:
    """From -1 to 1: how well answers have the shapes that are expected of each, one of several; at ``places``, if given.

    Of several answers the differences count, so that what is always strong does not.
    """
    alone = [1.0 if places and _only_at(profile, places[i]) else 0.0 for i, profile in enumerate(profiles)]
    if places and any(_only_at(profile, places[i]) is False for i, profile in enumerate(profiles)):
        return -1.0
    pairs = list(itertools.combinations(range(len(profiles)), 2))
    if not pairs:
        return 1.0 if alone[0] else max(_correlation(profiles[0], shape) for shape in shapes[0])
    found = []
    for i, j in pairs:
        if alone[i] and alone[j]:
            found.append(1.0)
            continue
        difference = profiles[i] / profiles[i].sum().clamp(min=1e-30) - profiles[j] / profiles[j].sum().clamp(min=1e-30)
        both = zip(shapes[i], shapes[j], strict=True)
        found.append(max(_correlation(difference, a / a.sum() - b / b.sum()) for a, b in both))
    return sum(found) / len(found)


def _only_at(profile: Tensor, place: float) -> bool | None:
    """Whether an answer that is confined to a part of the dimension is at the place; None where it is all over it."""
    answering = profile.nonzero()[:, 0]
    length = len(profile)
    if length < 6 or not len(answering) or len(answering) > 0.75 * length:
        return None
    first, last = int(answering[0]), int(answering[-1])
    if last - first + 1 != len(answering):
        return None
    outside = max(first - (place * length - 0.5), place * length - 0.5 - last)
    return True if outside <= 0.5 else None if outside <= 1.5 else False


def _shapes(length: int, place: float) -> list[Tensor]:
    """What an answer may look like: a peak, narrow or wide, or one that fades to one side."""
    away = (torch.arange(length, dtype=torch.float64) + 0.5) / length - place
    shapes = [torch.exp(-0.5 * (away / width) ** 2) for width in (0.06, 0.12, 0.25)]
    edge = 0.5 / length + WIDTH / 2
    for side in (away, -away):
        shapes.append(torch.where(side > -edge, torch.exp(-side.clamp(min=0) / 0.3), 0))
    return [shape + 1e-12 for shape in shapes]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-12 * (1 + float(a.abs().max())) else 0.0
