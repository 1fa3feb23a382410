"""The rows of a data set run, read from its shards: what the network said of each image, and small maps of why."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..brief import Brief
from ..dataset.shards import schema
from ..errors import reason, require

__all__ = ["Rows", "count", "read", "unreadable"]

NONE = -1
"""A class number that is not there."""

_ROLES = {"prediction": 0, "label": 1, "target": 2}
_NUMBERS = {"index": np.int64, "label": np.int32, "prediction": np.int32, "target": np.int32}
_SCORES = ("probability", "target_score", "target_probability")
_SIZES = ("height", "width")
_WORDS = ("path", "role", "layer", "method", "version")
_LISTS = ("top_classes", "top_scores", "crop")


@dataclass(repr=False)
class Rows(Brief):
    """The rows of a run, those of an image together, the prediction's first.

    ``columns`` are numbers as arrays ``[R]`` (-1 for a class that is not there), and words and lists as lists. ``crop`` is
    float32 ``[R, 4]``. ``maps`` are uint8 ``[h, w]``, 255 for 1, no side longer than asked for. ``names`` are those of
    class numbers. ``inside`` is the share of each row's heat inside the boxes of its image, NaN where there are none.
    """

    columns: dict[str, Any]
    crop: np.ndarray
    maps: list[np.ndarray]
    inside: np.ndarray
    names: dict[int, str]

    def __post_init__(self) -> None:
        index = self.columns["index"]
        self.starts = np.flatnonzero(np.r_[True, index[1:] != index[:-1]]) if len(index) else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.starts)

    def of(self, image: int) -> range:
        """The rows of image number ``image``."""
        last = self.starts[image + 1] if image + 1 < self.images else len(self)
        return range(int(self.starts[image]), int(last))

    def name(self, number: int) -> str:
        """A class by name, or by number where it has none."""
        return self.names.get(int(number), f"class {number}")


def unreadable(run: Path) -> list[tuple[str, str]]:
    """Path and reason of each file that the run could not read."""
    try:
        with open(run / "unreadable.csv", encoding="utf-8", newline="") as file:
            return [(line.get("path") or "", line.get("reason") or "") for line in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def count(shards: Iterable[Path]) -> int:
    """How many rows there are. Raises ``ValueError`` for a file that is no shard of a run."""
    total = 0
    for shard in shards:
        with _opened(shard) as file:
            total += file.metadata.num_rows
    return total


def read(
    shards: Iterable[Path],
    names: dict[int, str],
    side: int,
    share: Callable[[str, np.ndarray, np.ndarray], float] | None = None,
    done: Callable[[int], Any] = lambda count: None,
) -> Rows:
    """Reads ``shards`` one by one.

    Args:
        shards: Parquet files.
        names: class names by number; those that rows bring are added.
        side: maps with a longer side are averaged down to it.
        share: of path, map ``[h, w]`` and crop, the share of heat inside the image's boxes; NaN where it has none.
        done: is told how many rows more have been read.
    """
    parts: dict[str, list[Any]] = {name: [] for name in (*_NUMBERS, *_SCORES, *_SIZES, *_WORDS, *_LISTS)}
    maps: list[np.ndarray] = []
    inside: list[float] = []
    for shard in shards:
        for batch in _batches(shard):
            columns = {name: _column(batch, name) for name in parts}
            for kind in ("label", "prediction", "target"):
                _learn(names, columns[kind], batch, f"{kind}_name")
            sizes = zip(columns["crop"], columns["height"].tolist(), columns["width"].tolist(), strict=True)
            columns["crop"] = [crop or [0, 0, width, height] for crop, height, width in sizes]
            for name, values in columns.items():
                parts[name].append(values)
            found = _maps(batch, shard)
            if share is not None:
                places = zip(columns["path"], found, np.array(columns["crop"], np.float32), strict=True)
                inside += [share(*place) for place in places]
            maps += _small(found, side)
            done(len(found))
    return _sorted(parts, maps, inside, names)


def _sorted(parts: dict[str, list[Any]], maps: list[np.ndarray], inside: list[float], names: dict[int, str]) -> Rows:
    """Shards come in the order in which workers wrote them: rows are put into the order of images and roles."""
    arrays = (*_NUMBERS, *_SCORES, *_SIZES)
    columns: dict[str, Any] = {}
    for name, pieces in parts.items():
        if name in arrays:
            columns[name] = np.concatenate(pieces) if pieces else np.zeros(0, _NUMBERS.get(name, np.float32))
        else:
            columns[name] = [value for piece in pieces for value in piece]
    roles = np.array([_ROLES.get(role, len(_ROLES)) for role in columns["role"]], np.int64)
    order = np.lexsort((np.arange(len(roles)), roles, columns["index"]))
    for name, values in columns.items():
        columns[name] = values[order] if name in arrays else [values[i] for i in order]
    crop = np.array(columns.pop("crop"), np.float32).reshape(-1, 4)
    shares = np.array(inside or [np.nan] * len(order), np.float64)[order]
    return Rows(columns, crop, [maps[i] for i in order], shares, names)


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    parquet = require("pyarrow.parquet", "dataset")
    try:
        with parquet.ParquetFile(shard) as file:
            missing = [name for name in schema().names if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"expected shards of camfast.explain_dataset, got {shard} without {', '.join(missing)}"
                )
            yield file
    except (OSError, require("pyarrow", "dataset").ArrowInvalid) as error:
        raise ValueError(
            f"expected a Parquet shard of a run, got {shard}, which cannot be read: {reason(error)}"
        ) from error


def _batches(shard: Path) -> Iterator[Any]:
    with _opened(shard) as file:
        yield from file.iter_batches(4096)


def _column(batch: Any, name: str) -> Any:
    column = batch.column(name)
    if name in _NUMBERS:
        return column.fill_null(NONE).to_numpy(zero_copy_only=False).astype(_NUMBERS[name])
    if name in _SCORES or name in _SIZES:
        return column.to_numpy(zero_copy_only=False).astype(np.float32 if name in _SCORES else np.int64)
    return column.to_pylist()


def _learn(names: dict[int, str], numbers: np.ndarray, batch: Any, column: str) -> None:
    """Adds the names of a batch's classes, one look for each class."""
    values, places = np.unique(numbers, return_index=True)
    for number, place in zip(values.tolist(), places.tolist(), strict=True):
        if number != NONE and number not in names:
            name = batch.column(column)[place].as_py()
            if name is not None:
                names[number] = name


def _maps(batch: Any, shard: Path) -> list[np.ndarray]:
    """float32 ``[h, w]`` in [0, 1], one for each row."""
    heights, widths = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("map_height", "map_width"))
    found = []
    for cell, height, width in zip(batch.column("map"), heights.tolist(), widths.tolist(), strict=True):
        data = cell.as_buffer()
        if data is None or data.size != 2 * height * width:
            size = 0 if data is None else data.size
            raise ValueError(f"expected {height} x {width} values of float16 in a map of {shard}, got {size} bytes")
        values = np.frombuffer(data, "<f2").reshape(height, width).astype(np.float32)
        found.append(np.nan_to_num(values, nan=0, posinf=1, neginf=0).clip(0, 1))
    return found


def _small(maps: list[np.ndarray], side: int) -> list[np.ndarray]:
    """``maps`` as uint8, those with a side above ``side`` averaged; maps of one size share a pass."""
    small: list[Any] = [None] * len(maps)
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, values in enumerate(maps):
        sizes.setdefault(values.shape, []).append(i)
    for (height, width), places in sizes.items():
        planes = torch.from_numpy(np.stack([maps[i] for i in places])).unsqueeze(1)
        if max(height, width) > side:
            ratio = side / max(height, width)
            wanted = (max(1, round(height * ratio)), max(1, round(width * ratio)))
            planes = torch.nn.functional.adaptive_avg_pool2d(planes, wanted)
        bytes_ = (planes.squeeze(1) * 255).round().to(torch.uint8).numpy()
        for i, one in zip(places, bytes_, strict=True):
            small[i] = one
    return small
