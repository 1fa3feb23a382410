"""Connected regions of a map above many thresholds at once, from the runs of its rows.

A row that rises by five levels between two positions starts five runs there. So the runs of all thresholds are as many as
the map has ups, not as many as it has positions times thresholds: a smooth map's are few. Runs that touch in neighbouring
rows are joined, for all thresholds in the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..brief import Brief

__all__ = ["Regions", "regions_of"]


@dataclass(repr=False)
class Regions(Brief):
    """Regions of all levels, ordered by level, and within it by the position where they end.

    Attributes:
        levels: ``[R]``, from 0 on.
        sizes: ``[R]``, how many positions each holds.
        boxes: ``[R, 4]``, around each: x0, y0, x1, y1 in positions, from edge to edge.
    """

    levels: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray

    def some(self, which: np.ndarray) -> Regions:
        """Those numbered ``which``."""
        return Regions(self.levels[which], self.sizes[which], self.boxes[which])


def regions_of(above: np.ndarray, levels: int) -> Regions:
    """The regions of each level, whose positions touch at sides or corners.

    Args:
        above: whole numbers ``[H, W]`` from 0 to ``levels``: a position is hot at all levels below its number.
        levels: how many there are.
    """
    height, width = above.shape
    line = width + 2  # places of a row: as far apart that no run touches one of another row by its number
    step = np.diff(above.astype(np.int32), axis=1, prepend=0, append=0)
    starts, ends = (
        _events(above, step, levels, 1),
        _events(above, step, levels, -1),
    )  # a row's runs begin and end in turn
    first = np.searchsorted(ends, starts + line)  # in the next row, of the runs that touch each one ...
    last = np.searchsorted(starts, ends + line, side="right")  # ... the first, and the one after the last
    root = _joined(first, last)
    members = np.flatnonzero(root == np.arange(len(root)))  # a region's last run stands for it
    number = np.searchsorted(members, root)
    level, row = np.divmod(starts // line, height + 1)
    left, right = starts % line, ends % line
    boxes = np.empty((4, len(members)), starts.dtype)  # of one type with what is put in: ``at`` is slow otherwise
    boxes[:2], boxes[2] = max(width, height), 0
    np.minimum.at(boxes[0], number, left)
    np.minimum.at(boxes[1], number, row)
    np.maximum.at(boxes[2], number, right)
    boxes[3] = row[members] + 1
    sizes = np.bincount(number, right - left, len(members)).astype(np.int64)
    return Regions(level[members].astype(np.int64), sizes, boxes.T.astype(np.int64))


def _events(above: np.ndarray, step: np.ndarray, levels: int, sign: int) -> np.ndarray:
    """Where runs start (``sign`` 1) or end (-1), sorted: ``(level * (height + 1) + row) * (width + 2) + column``."""
    height, width = above.shape
    many = (sign * step).clip(0).ravel()  # levels that are passed between two neighbours
    at = np.repeat(np.arange(many.size), many)
    lower = np.pad(above, ((0, 0), (1, 1)))
    lower = np.minimum(lower[:, 1:], lower[:, :-1]).ravel()  # the lowest of these levels
    level = lower[at] + np.arange(at.size) - (np.cumsum(many) - many)[at]
    row, column = np.divmod(at, width + 1)
    places = (level * (height + 1) + row) * (width + 2) + column
    # A smaller type sorts faster.
    return np.sort(places.astype(np.int32) if levels * (height + 1) * (width + 2) < 2**31 else places)


def _joined(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Of each run the last one of its region; run ``i`` touches ``first[i]`` to ``last[i] - 1``, which come after it."""
    own = np.arange(len(first))
    parent = np.where(last > first, last - 1, own)
    parent = _rooted(parent)
    more = np.maximum(last - first - 1, 0)  # beside the one that a run hangs on already
    below = np.repeat(own, more)
    above = np.repeat(first, more) + np.arange(len(below)) - np.repeat(np.cumsum(more) - more, more)
    while True:
        a, b = parent[below], parent[above]
        apart = a != b
        if not apart.any():
            return parent
        below, above = below[apart], above[apart]
        a, b = a[apart], b[apart]
        parent[np.minimum(a, b)] = np.maximum(a, b)  # of several the last one written counts, the others come next
        parent = _rooted(parent)


def _rooted(parent: np.ndarray) -> np.ndarray:
    """Each one's last ancestor."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further
