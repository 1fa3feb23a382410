"""Maps back from the shards, at any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import or_rather, require
from .shards import check_folder, schema, shard_files

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Maps", "map_of", "read_maps"]

Where = Any
"""A mapping, an Arrow expression, or a function of a row."""

ROWS = 1024  # that are in memory at a time


def read_maps(out: str | os.PathLike[str], size: int | Sequence[int] | None = None, where: Where = None) -> Maps:
    """The maps that :func:`camfast.explain_dataset` has written to ``out``, with their rows.

    Args:
        out: its folder.
        size: height and width of the maps, an int for both; None leaves them as they are. Resized linearly, not
            stretched to [0, 1] again.
        where: which rows: a mapping from columns to a value or a list of values, ``{"role": "label", "label": [3, 5]}``;
            an expression of ``pyarrow.compute``; or a function that takes a row and returns whether it is wanted.

    Returns:
        A :class:`Maps`, to be looped over: nothing is read before.

    Raises:
        ValueError: a folder without such output, a column that there is not, or a size that is none.
    """
    return Maps(out, size, where)


class Maps:
    """Rows of a data set's shards: a dict each, whose ``map`` is a float32 tensor ``[h, w]``, in [0, 1].

    ``len()`` counts them, a loop reads them shard by shard, as often as one likes; :meth:`stack` takes all at once.
    """

    def __init__(
        self, out: str | os.PathLike[str], size: int | Sequence[int] | None = None, where: Where = None
    ) -> None:
        self.out = check_folder(out)
        sides = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
        if sides is not None and (len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides)):
            raise ValueError(f"size must be None, an int or two ints above 0, got {size!r}")
        self.size = sides
        self._filter = _expression(where)
        self._wanted: Callable[[dict[str, Any]], Any] | None = where if _is_function(where) else None

    def __len__(self) -> int:
        if self._wanted is not None:
            return sum(1 for _ in self)
        return self._data().count_rows(filter=self._filter)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._data().to_batches(filter=self._filter, batch_size=ROWS):
            rows = batch.to_pylist()
            maps = [map_of(row) for row in rows]
            if self._wanted is not None:
                kept = [n for n, row in enumerate(rows) if self._wanted(row | {"map": maps[n]})]
                rows, maps = [rows[n] for n in kept], [maps[n] for n in kept]
            for row, plane in zip(rows, self._resized(maps), strict=True):
                yield row | {"map": plane}

    def stack(self) -> tuple[Tensor, pyarrow.Table]:
        """All maps ``[N, h, w]``, and the other columns of their rows as an Arrow table.

        Raises ``ValueError`` for maps of several sizes, unless a ``size`` was given.
        """
        arrow = require("pyarrow", "dataset")
        rows = list(self)
        planes = [row.pop("map") for row in rows]
        shapes = sorted({tuple(plane.shape) for plane in planes})
        if len(shapes) > 1:
            raise ValueError(f"expected maps of one size, got {', '.join(map(str, shapes))}; pass size=")
        plain = schema()
        table = arrow.Table.from_pylist(rows, plain.remove(plain.get_field_index("map")))
        return torch.stack(planes) if planes else torch.zeros(0, *(self.size or (0, 0))), table

    def _data(self) -> Any:
        dataset = require("pyarrow.dataset", "dataset")
        files = [str(path) for path in shard_files(self.out)]
        return dataset.dataset(files, schema=schema(), format="parquet", partitioning=None)

    def _resized(self, maps: list[Tensor]) -> list[Tensor]:
        if self.size is None:
            return maps
        found: list[Tensor] = [torch.empty(0)] * len(maps)
        for shape in {plane.shape for plane in maps}:
            places = [n for n, plane in enumerate(maps) if plane.shape == shape]
            same = torch.stack([maps[n] for n in places])
            for n, plane in zip(places, ops.resize_normalize(same, self.size, normalize=False), strict=True):
                found[n] = plane
        return found

    def __repr__(self) -> str:
        size = "their own size" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        return f"Maps({len(self)} of {self.out}, {size})"


def map_of(row: Mapping[str, Any]) -> Tensor:
    """The map of a row, float32 ``[map_height, map_width]``."""
    plane = np.frombuffer(row["map"], "<f2").reshape(row["map_height"], row["map_width"])
    return torch.from_numpy(plane.astype(np.float32))


def _is_function(where: Where) -> bool:
    return callable(where) and not hasattr(where, "isin")


def _expression(where: Where) -> Any:
    """An Arrow expression of a mapping; None where there is nothing to filter by, or a function does."""
    if where is None or _is_function(where):
        return None
    if not isinstance(where, Mapping):
        if not hasattr(where, "isin"):
            raise TypeError(f"where must be a mapping, an Arrow expression or a function, got {type(where).__name__}")
        return where
    compute = require("pyarrow.compute", "dataset")
    known = schema().names
    whole = None
    for column, value in where.items():
        if column not in known:
            raise ValueError(f"expected a column of the shards, got {column!r}{or_rather([], known)}")
        each = compute.field(column)
        if isinstance(value, (list, tuple, set, frozenset)):
            part = each.isin(list(value))
        else:
            part = each.is_null() if value is None else each == value
        whole = part if whole is None else whole & part
    return whole
