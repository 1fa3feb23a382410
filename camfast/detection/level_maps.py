"""The maps of every level for every box, by as little work as can be proved to be enough.

K boxes of each image go back in one batched pass through the head: gradients ``[K, N, C, h, w]`` at each level. Where the
candidates are the levels' positions in order, as in YOLO's heads, a box depends on a few positions around its own, at one
level alone. The first pass, in which every level begins a graph of its own and nothing is assumed, shows whether that is so
and how far it reaches. From then on the other levels are left out, and boxes that are too far apart to meet share a row of
the pass; a gradient beyond the reach that was seen ends that for good.

A box in which a method finds nothing positive at its own level, as it happens where activations are mostly negative, is
explained by what reached that level from the others: by the gradient at all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import DoubtWarning
from ..model.layouts import Layout
from ..model.tap import NoGradient, Tap
from .objectives import Objective

__all__ = ["CUT", "LevelMaps"]

CUT = (
    "the detector's scores must depend on its levels through differentiable operations, got none that do: its head may "
    "detach its inputs, run under no_grad, or be compiled; name the layers= inside it"
)

_ELEMENTS = 2**25  # of gradients at once, 128 MB in fp32
_POINTWISE = (ops.layer_cam, ops.hires_cam, ops.grad_cam_elementwise)  # a position's value is of its own gradient alone


class LevelMaps:
    """Makes the maps of the levels by the rule ``op``; remembers how far boxes reach."""

    def __init__(self, op: Callable[..., Tensor]) -> None:
        self.op = op
        self.forget()

    def forget(self) -> None:
        """Of other levels nothing is known."""
        self._reach: dict[int, int] = {}  # by level: how many positions from its own a box depends on
        self._local = True  # as far as was seen

    @property
    def knows(self) -> bool:
        """Whether boxes were seen to depend on what is around them, at one level alone."""
        return self._local and len(self._reach) > 0

    def __call__(
        self, tap: Tap, layouts: Sequence[Layout], found: Sequence[Objective], room: int, near: bool
    ) -> list[Tensor] | None:
        """Of each level the maps of K boxes of each image, ``[N, K, h, w]``, not negative.

        With ``near`` those of boxes that depend on one level, as was seen before, in a pass whose levels stay in one graph;
        None where that does not hold of these boxes, so that a pass which assumes nothing must come first.

        Args:
            tap: after its pass.
            layouts: of the levels.
            found: what is explained in each image.
            room: at least as many numbers as are explained: batches of any number of boxes look alike.
        """
        values = torch.cat([one.values for one in found])
        if not values.requires_grad:
            raise NoGradient(CUT)
        padded = torch.cat([values, values.new_zeros(max(0, room - len(values)))])
        grids = [layout.view(A) for layout, A in zip(layouts, tap.activations, strict=True)]
        cells = self._cells(found, grids)
        if not near:
            return self._dense(tap, layouts, grids, padded, found, cells)
        if cells is None or not {level for row in cells for level, _, _ in row} <= set(self._reach):
            return None
        return self._near(tap, layouts, grids, padded, cells)

    def _dense(
        self,
        tap: Tap,
        layouts: Sequence[Layout],
        grids: Sequence[Tensor],
        values: Tensor,
        found: Sequence[Objective],
        cells: list[list[_Cell]] | None,
    ) -> list[Tensor]:
        """By one pass of K rows, which assumes nothing but that images do not depend on one another."""
        many = max(len(one) for one in found)
        seeds = torch.zeros(many, len(values), dtype=values.dtype, device=values.device)
        start = 0
        for one in found:
            seeds[: len(one), start : start + len(one.values)] = one.shares.to(seeds)
            start += len(one.values)
        at_once = max(1, _ELEMENTS // sum(A.numel() for A in grids))
        parts: list[list[Tensor]] = []
        reached = changed = False
        for first in range(0, many, at_once):
            rows = seeds[first : first + at_once]
            gradients = tap.gradients(values, rows, missing_ok=True, keep=first + at_once < many)
            slopes = [None if G is None else layout.view(G) for G, layout in zip(gradients, layouts, strict=True)]
            if cells is not None and self._local and tap.separate:
                self._learn(slopes, cells, first)
            reached = reached or any(G is not None for G in slopes)
            changed = changed or any(G is not None and bool(G.any()) for G in slopes)
            parts.append([self._map(A, G, len(rows)) for A, G in zip(grids, slopes, strict=True)])
        if not reached:
            raise NoGradient(CUT)
        if not changed:
            warnings.warn(
                "the gradient of every box's score is exactly zero at every level, so that there is no heat: the head may "
                "detach its inputs, or its activations may all be in their flat parts",
                DoubtWarning,
                stacklevel=2,
            )
        return [torch.cat(of_level, 1) for of_level in zip(*parts, strict=True)]

    def _map(self, A: Tensor, G: Tensor | None, rows: int) -> Tensor:
        if G is None:
            return A.new_zeros(A.shape[0], rows, *A.shape[2:], dtype=torch.float32)
        return self.op(A, G.transpose(0, 1), None, False).clamp_(min=0)

    # Boxes that depend on what is around them alone.

    def _cells(self, found: Sequence[Objective], grids: Sequence[Tensor]) -> list[list[_Cell]] | None:
        """Level, row and column of each box of each image, if candidates are the levels' positions; else None."""
        if self.op not in _POINTWISE:
            return None
        sizes = [(A.shape[2], A.shape[3]) for A in grids]
        counts = [height * width for height, width in sizes]
        cells: list[list[_Cell]] = []
        for one in found:
            if one.places is None or one.among != sum(counts) or not len(one):
                if len(one):
                    return None
                cells.append([])
                continue
            row = []
            for place in one.places.tolist():
                level = 0
                while place >= counts[level]:
                    place -= counts[level]
                    level += 1
                row.append((level, *divmod(place, sizes[level][1])))
            cells.append(row)
        return cells

    def _learn(self, slopes: Sequence[Tensor | None], cells: list[list[_Cell]], first: int) -> None:
        """How far the boxes of a dense pass reach; they are local no more where one reaches another level, or all of its own."""
        for image, row in enumerate(cells):
            for k, (level, y, x) in enumerate(row[first:]):
                for other, G in enumerate(slopes):
                    if G is None or k >= len(G):
                        continue
                    used = (G[k, image] != 0).any(0)
                    if other != level:
                        self._local = self._local and not bool(used.any())
                        continue
                    rows, columns = used.nonzero().unbind(1)
                    if not len(rows):
                        continue
                    reach = max(int((rows - y).abs().max()), int((columns - x).abs().max()))
                    # All of the window, as a chain of convolutions reaches it, and not some of it by chance.
                    window = used[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                    if 2 * reach + 1 >= min(used.shape) or not bool(window.all()):
                        self._local = False
                    self._reach[level] = max(reach, self._reach.get(level, 0))

    def _near(
        self,
        tap: Tap,
        layouts: Sequence[Layout],
        grids: Sequence[Tensor],
        values: Tensor,
        cells: list[list[_Cell]],
    ) -> list[Tensor] | None:
        """A pass for each level in which there are boxes, its rows shared by boxes that do not meet; None if they do."""
        many = max(map(len, cells))
        maps = [A.new_zeros(A.shape[0], many, *A.shape[2:], dtype=torch.float32) for A in grids]
        starts = [sum(map(len, cells[:image])) for image in range(len(cells))]
        levels = sorted({level for row in cells for level, _, _ in row})
        for level in levels:
            reach, A = self._reach[level], grids[level]
            rows = _shared_rows(cells, level, reach)
            count = 1 + max(row for row, _, _ in rows)
            seeds = torch.zeros(count, len(values), dtype=values.dtype, device=values.device)
            for row, image, k in rows:
                seeds[row, starts[image] + k] = 1
            (gradient,) = tap.gradients(values, seeds, missing_ok=True, keep=True, only=[level])
            if gradient is None:
                raise NoGradient(CUT)
            G = layouts[level].view(gradient)
            packed, beyond = self._map(A, G, count), (G != 0).any(2)
            for row, image, k in rows:
                _, y, x = cells[image][k]
                window = (slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1))
                maps[level][image, k][window] = packed[image, row][window]
                beyond[row, image][window] = False
            if bool(beyond.any()):
                self._local = False
                return None
        blank = [
            [k for k, (level, _, _) in enumerate(row) if not maps[level][image, k].any()]
            for image, row in enumerate(cells)
        ]
        if any(blank):
            self._fill(tap, layouts, grids, values, maps, starts, blank)
        return maps

    def _fill(
        self,
        tap: Tap,
        layouts: Sequence[Layout],
        grids: Sequence[Tensor],
        values: Tensor,
        maps: list[Tensor],
        starts: Sequence[int],
        blank: list[list[int]],
    ) -> None:
        """The maps of the boxes ``blank`` of each image, by their gradient at every level."""
        count = max(map(len, blank))
        seeds = torch.zeros(count, len(values), dtype=values.dtype, device=values.device)
        for image, boxes in enumerate(blank):
            for row, k in enumerate(boxes):
                seeds[row, starts[image] + k] = 1
        gradients = tap.gradients(values, seeds, missing_ok=True)
        for of_level, A, G, layout in zip(maps, grids, gradients, layouts, strict=True):
            own = self._map(A, None if G is None else layout.view(G), count)
            for image, boxes in enumerate(blank):
                of_level[image, boxes] = own[image, : len(boxes)]


_Cell = tuple[int, int, int]
"""Level, row and column."""


def _shared_rows(cells: list[list[_Cell]], level: int, reach: int) -> list[tuple[int, int, int]]:
    """``(row, image, box)`` of the boxes of ``level``: in one row, those of an image are so far apart that they do not meet."""
    apart = 2 * reach + 2  # a position between them, which must stay zero
    found = []
    for image, row in enumerate(cells):
        taken: list[list[tuple[int, int]]] = []
        for k, (own, y, x) in enumerate(row):
            if own != level:
                continue
            fits = lambda there: all(abs(y - v) >= apart or abs(x - u) >= apart for v, u in there)  # noqa: B023, E731
            place = next((i for i, there in enumerate(taken) if fits(there)), len(taken))
            if place == len(taken):
                taken.append([])
            taken[place].append((y, x))
            found.append((place, image, k))
    return found
