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

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import DoubtWarning, warn
from ..model.layouts import Layout
from ..model.tap import NoGradient, Tap
from .objectives import Objective
from .windows import Box, Calls, Part, Window, part_of, windows_of

__all__ = ["CUT", "LevelMaps"]

CUT = (
    "the detector's scores must depend on its levels through differentiable operations, got none that do: its head may "
    "detach its inputs, run under no_grad, or be compiled; name the layers= inside it"
)

_ELEMENTS = 2**25  # of gradients at once, 128 MB in fp32
_TRIES = 3  # passes in which parts of the head that score a level alone are looked for
_EQUAL = 100  # units in the last place of a map's maximum, by which another order of sums may change it
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
        self._parts: dict[int, Part] = {}  # by level: what scores it, where that gave the same maps by windows
        self._tries = _TRIES
        self._fills = False  # whether boxes without heat at their own level were met

    @property
    def needs_graph(self) -> bool:
        """Whether the next pass must record a graph, as far as is known."""
        return self._fills or not self._parts

    def watch(self, model: nn.Module, levels: Sequence[nn.Module]) -> contextlib.AbstractContextManager[Calls | None]:
        """What to run a pass in, and to call this with afterwards: it notes which parts of ``model`` the ``levels`` go to."""
        return Calls(model, levels) if self._local and self._tries else contextlib.nullcontext()

    @property
    def knows(self) -> bool:
        """Whether boxes were seen to depend on what is around them, at one level alone."""
        return self._local and len(self._reach) > 0

    def __call__(
        self, tap: Tap, layouts: Sequence[Layout], found: Sequence[Objective], room: int, calls: Calls | None = None
    ) -> list[Tensor] | None:
        """Of each level the maps of K boxes of each image, ``[N, K, h, w]``, not negative.

        None where that takes a graph and the pass of ``tap`` has none.

        Args:
            tap: after its pass.
            layouts: of the levels.
            found: what is explained in each image.
            room: at least as many numbers as are explained: batches of any number of boxes look alike.
            calls: what was seen in the pass, see :meth:`watch`.
        """
        grids = [layout.view(A) for layout, A in zip(layouts, tap.activations, strict=True)]
        cells = self._cells(found, grids, layouts) if tap.separate else None
        levels = {level for row in cells or () for level, _, _ in row}
        if cells is not None and levels <= set(self._parts):
            maps = self._windowed(tap, layouts, grids, found, cells)
            if maps is not None:
                return maps
        if not tap.graph:
            return None
        values = torch.cat([one.values for one in found])
        if not values.requires_grad:
            raise NoGradient(CUT)
        values = torch.cat([values, values.new_zeros(max(0, room - len(values)))])
        near = self._near(tap, grids, values, cells) if cells is not None and levels <= set(self._reach) else None
        maps = self._dense(tap, layouts, grids, values, found, cells) if near is None else near
        if cells is not None and calls is not None:
            self._try_windows(calls, grids, found, cells, maps)
        return maps

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
            if cells is not None and self._local:
                self._learn(slopes, cells, first)
            reached = reached or any(G is not None for G in slopes)
            changed = changed or any(G is not None and bool(G.any()) for G in slopes)
            part = [self._map(A, G, len(rows)) for A, G in zip(grids, slopes, strict=True)]
            if tap.separate:
                own = [(k, i) for i, one in enumerate(found) for k in range(min(len(one) - first, len(rows)))]
                blank = [(k, i) for k, i in own if not any(bool(of_level[i, k].any()) for of_level in part)]
                if blank and len(grids) > 1:
                    boxes = sorted({k for k, _ in blank})
                    self._fill(
                        tap,
                        layouts,
                        grids,
                        [None if G is None else G[boxes] for G in gradients],
                        part,
                        [(boxes.index(k), i, k) for k, i in blank],
                    )
            parts.append(part)
        if not reached:
            raise NoGradient(CUT)
        if not changed:
            warn(
                "the gradient of every box's score is exactly zero at every level, so that there is no heat: the head may "
                "detach its inputs, or its activations may all be in their flat parts",
                DoubtWarning,
            )
        return [torch.cat(of_level, 1) for of_level in zip(*parts, strict=True)]

    def _map(self, A: Tensor, G: Tensor | None, rows: int) -> Tensor:
        if G is None:
            return A.new_zeros(A.shape[0], rows, *A.shape[2:], dtype=_dtype(A))
        return self.op(A, G.transpose(0, 1), None, False).clamp_(min=0)

    # Boxes that depend on what is around them alone.

    def _cells(
        self, found: Sequence[Objective], grids: Sequence[Tensor], layouts: Sequence[Layout]
    ) -> list[list[_Cell]] | None:
        """Level, row and column of each box of each image, if candidates are the levels' positions; else None."""
        if self.op not in _POINTWISE or any(layout.kind != "channels_first" for layout in layouts):
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

    def _near(self, tap: Tap, grids: Sequence[Tensor], values: Tensor, cells: list[list[_Cell]]) -> list[Tensor] | None:
        """A pass for each level in which there are boxes, its rows shared by boxes that do not meet; None if they do."""
        if not self.knows:
            return None
        many = max(map(len, cells))
        maps = [A.new_zeros(A.shape[0], many, *A.shape[2:], dtype=_dtype(A)) for A in grids]
        starts = [sum(map(len, cells[:image])) for image in range(len(cells))]
        layouts = [Layout("channels_first", tuple(A.shape[2:])) for A in grids]
        for level in sorted({level for row in cells for level, _, _ in row}):
            reach, A = self._reach[level], grids[level]
            rows = _shared_rows(cells, level, reach)
            count = 1 + max(row for row, _, _ in rows)
            seeds = torch.zeros(count, len(values), dtype=values.dtype, device=values.device)
            for row, image, k in rows:
                seeds[row, starts[image] + k] = 1
            (G,) = tap.gradients(values, seeds, missing_ok=True, keep=True, only=[level])
            if G is None:
                raise NoGradient(CUT)
            packed, beyond = self._map(A, G, count), (G != 0).any(2)
            blank = []
            for row, image, k in rows:
                _, y, x = cells[image][k]
                window = (slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1))
                maps[level][image, k][window] = packed[image, row][window]
                beyond[row, image][window] = False
                if not packed[image, row][window].any():
                    blank.append((row, image, k, window))
            if bool(beyond.any()):
                self._local = False
                return None
            if blank:
                own = G.new_zeros(len(blank), *G.shape[1:])
                for i, (row, image, _, window) in enumerate(blank):
                    own[i, image].movedim(0, -1)[window] = G[row, image].movedim(0, -1)[window]
                gradients: list[Tensor | None] = [None] * len(grids)
                gradients[level] = own
                self._fill(tap, layouts, grids, gradients, maps, [(i, b[1], b[2]) for i, b in enumerate(blank)])
        return maps

    def _windowed(
        self,
        tap: Tap,
        layouts: Sequence[Layout],
        grids: Sequence[Tensor],
        found: Sequence[Objective],
        cells: list[list[_Cell]],
    ) -> list[Tensor] | None:
        """By a window for each box; None if one does not give its box's score, or where a box's heat takes a graph."""
        many = max(map(len, cells))
        maps = [A.new_zeros(A.shape[0], many, *A.shape[2:], dtype=_dtype(A)) for A in grids]
        for level, part in self._parts.items():
            at, boxes = _boxes(found, cells, level)
            if not boxes:
                continue
            try:
                windows = windows_of(part, grids, boxes, self._reach[level])
            except Exception:  # the part is another one now; the model itself knows what it is worth
                windows = None
            if windows is None:
                self._parts.clear()
                self._tries = 0
                return None
            blank = []
            for (image, k), window, heat in zip(at, windows, self._heat_in(windows), strict=True):
                maps[level][image, k, window.rows, window.columns] = heat
                if not heat.any():
                    blank.append((image, k, window))
            if blank and not tap.graph:
                self._fills = True
                return None
            if blank:
                A = grids[level]
                own = A.new_zeros(len(blank), *A.shape)
                for i, (image, _, window) in enumerate(blank):
                    own[i, image, :, window.rows, window.columns] = window.gradient
                gradients: list[Tensor | None] = [None] * len(grids)
                gradients[level] = own
                self._fill(tap, layouts, grids, gradients, maps, [(i, b[0], b[1]) for i, b in enumerate(blank)])
        return maps

    def _heat_in(self, windows: Sequence[Window]) -> Tensor:
        """The map in each window, ``[B, s, s]``."""
        A, G = (torch.stack(one) for one in zip(*((w.activations, w.gradient) for w in windows), strict=True))
        return self.op(A, G, None, False).clamp_(min=0)

    def _try_windows(
        self,
        calls: Calls,
        grids: Sequence[Tensor],
        found: Sequence[Objective],
        cells: list[list[_Cell]],
        maps: Sequence[Tensor],
    ) -> None:
        """Uses windows from now on where they give the ``maps`` that a pass through the whole head gave."""
        self._tries -= 1
        for level in sorted({level for row in cells for level, _, _ in row} - set(self._parts)):
            at, boxes = _boxes(found, cells, level)
            if not self.knows or level not in self._reach:
                return
            try:
                part = part_of(calls, level, grids, boxes)
                windows = None if part is None else windows_of(part, grids, boxes, self._reach[level])
            except Exception:  # what a part of a model makes of a window is its own affair; the maps are there
                windows = None
            if part is None or windows is None:
                continue
            equal = []
            for (image, k), window, heat in zip(at, windows, self._heat_in(windows), strict=True):
                if heat.any():  # else the map is that of what reached the level from others
                    off = maps[level][image, k].clone()
                    most = off.amax() * _EQUAL * torch.finfo(grids[level].dtype).eps
                    off[window.rows, window.columns] -= heat
                    equal.append(bool(off.abs().amax() <= most))
            if equal and all(equal):
                self._parts[level] = part
                self._tries = _TRIES

    def _fill(
        self,
        tap: Tap,
        layouts: Sequence[Layout],
        grids: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        maps: list[Tensor],
        boxes: Sequence[tuple[int, int, int]],
    ) -> None:
        """The maps of boxes without heat, by what reached their level from the others.

        ``gradients`` ``[K, N, ...]`` are those at each level; ``boxes`` are row of these, image, and place among its boxes.
        """
        rows = 1 + max(row for row, _, _ in boxes)
        passed = tap.passed_on(gradients)
        for of_level, A, G, layout in zip(maps, grids, passed, layouts, strict=True):
            own = self._map(A, None if G is None else layout.view(G), rows)
            for row, image, k in boxes:
                of_level[image, k] = own[image, row]


_Cell = tuple[int, int, int]
"""Level, row and column."""


def _boxes(found: Sequence[Objective], cells: list[list[_Cell]], level: int) -> tuple[list[tuple[int, int]], list[Box]]:
    """The boxes at ``level``, and of each its image and its place among that image's boxes."""
    at, boxes = [], []
    for image, (one, row) in enumerate(zip(found, cells, strict=True)):
        labels, values = one.labels.tolist(), one.values.detach()
        for k, (own, y, x) in enumerate(row):
            if own == level:
                at.append((image, k))
                boxes.append(Box(image, y, x, labels[k], values[k]))
    return at, boxes


def _dtype(A: Tensor) -> torch.dtype:
    return torch.float64 if A.dtype == torch.float64 else torch.float32


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
