"""Rows of tokens: how many stand before the positions, and which grid the others make.

[N, 1 + 196, C]   a class token, and 14 x 14 positions
[N, 5, C]         five positions in a line, or four behind a class token: a doubt
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from .evidence import Answer, agreement, leading, movement
from .layouts import Layout
from .readings import rows_as_grids

__all__ = ["course_of", "line_of", "other_grid"]

_TOLD = 12  # positions of a line, of which the first ones are told from class tokens
_TOLD_SURELY = 0.9  # where the line itself is as sure
_PLENTY = 40  # positions, of which another grid is told apart
_MOVES_AS_COLUMNS = 0.55  # answers in a grid whose columns follow one another, which a line along them explains as well
_GRID_MARGIN = 0.15  # by how much a row of fewer tokens must be explained better than by another grid


def other_grid(found: Layout, answers: Sequence[Answer], image: Sequence[int]) -> str | None:
    """A doubt, where a row of tokens read as ``found`` may as well be another grid, or behind other tokens before it."""
    if len(found.order) != 3:
        return None
    if len(found.map) == 1 and found.order[1] < found.order[2]:
        return None  # a signal, which has no class token before it
    along = found.along if found.along is not None else range(len(image) - len(found.map), len(image))
    count = found.prefix + math.prod(found.map)
    own = (movement(found, answers) + agreement(found, answers)) / 2
    if len(found.map) == 1 and found.map[0] >= _TOLD and own >= _TOLD_SURELY:
        return None
    bound = own - (_GRID_MARGIN if math.prod(found.map) < _PLENTY else 0.0)
    grids = rows_as_grids(count, tuple(image[axis] for axis in along))
    for (grid, prefix), down in itertools.product(grids, (False, True) if len(found.map) == 2 else (False,)):
        rival = found._replace(kind="axes", axes=found.order, map=grid, prefix=prefix, down=down)
        if (grid, prefix, down) == (found.map, found.prefix, found.down) or not _fits(rival, image):
            continue
        moves = movement(rival, answers)
        if down and not prefix and min(found.map) == 1 and moves > _MOVES_AS_COLUMNS:
            return f"{count} tokens in a row may be {_sides(found)} positions, or {_sides(rival)}, column by column"
        if moves / 2 + 0.5 > bound and (moves + agreement(rival, answers)) / 2 > bound:
            return f"{count} tokens in a row may be {_sides(found)} positions, or {_sides(rival)}"
    return None


def _fits(row: Layout, image: Sequence[int]) -> bool:
    """Whether the sides of a row's grid are what strides leave of the image."""
    along = row.along if row.along is not None else range(len(image) - len(row.map), len(image))
    return all(
        side == 1 or any(side in (full // stride, -(-full // stride)) for stride in range(1, full + 1))
        for side, full in ((side, image[axis]) for side, axis in zip(row.map, along, strict=True))
    )


def _sides(row: Layout) -> str:
    before = f" behind {row.prefix} others" if row.prefix else ""
    return " x ".join(map(str, row.map)) + before


def line_of(
    lines: Sequence[Layout], moved: Mapping[Layout, float], answers: Sequence[Answer], image: Sequence[int]
) -> tuple[Layout, str | None]:
    """Of readings of a line of tokens that differ in how many are before it, the one that is borne out; a doubt.

    Two things speak: the first tokens, which are no positions where they answer to every change alike, and the number of
    positions, which is what a stride leaves of the image.
    """
    plain = min(lines, key=lambda line: line.prefix)
    if len({course_of(line, len(image)) for line in lines}) > 1:
        line = max(lines, key=moved.__getitem__)
        return line, f"{max(line.map)} positions in a line may follow one dimension of the image or another"
    fits = [line for line in lines if _fits(line, image)]
    seen = plain.prefix + leading(plain, answers)
    told = next((line for line in lines if line.prefix == seen), plain)
    if plain not in fits:
        line = told if told in fits or not fits else min(fits, key=lambda line: line.prefix)
        if len(fits) == 1:
            return line, None
        return (
            line,
            f"{plain.prefix + max(plain.map)} tokens in a line may be {_counted(fits or lines)} positions behind others",
        )
    if told is plain or told not in fits:
        return plain, None
    return (
        plain,
        f"{max(plain.map)} tokens in a line may be so many positions, or {max(told.map)} behind {seen} of another kind",
    )


def course_of(line: Layout, rank: int) -> tuple[tuple[int, ...], int]:
    """Which dimension of the output a line runs along, and which of an image of ``rank`` dimensions it follows."""
    side = line.map.index(max(line.map))
    return line.order, line.along[side] if line.along is not None else rank - len(line.map) + side


def _counted(lines: Sequence[Layout]) -> str:
    return " or ".join(str(max(line.map)) for line in lines[:3])
