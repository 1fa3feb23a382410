"""Where heat leaves the object: boxes of a table, and the share of each map's heat that lies inside them."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import reason, require

__all__ = ["Boxes", "covered", "heat_inside", "read"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the photograph."""

_COLUMNS = ("path", "left", "top", "right", "bottom")


class Boxes:
    """The boxes of photographs, found by path: as it stands in the run, or as the file that it leads to."""

    def __init__(self, file: Path, bases: Sequence[Path]) -> None:
        self.root = bases[0]
        self.first = ""  # of the table's paths, for messages
        self.found = False
        self._by_path: dict[str, list[Box]] = {}
        for path, box in _lines(file):
            self.first = self.first or path
            # Relative paths start where those of the run do, in the folder that it read, or beside the table.
            for place in {path, *(os.path.abspath(base / path) for base in (*bases, file.parent))}:
                self._by_path.setdefault(place, []).append(box)

    def of(self, path: str) -> list[Box]:
        """The boxes of a photograph of the run; none where the table has none."""
        boxes = self._by_path.get(path) or self._by_path.get(os.path.abspath(self.root / path)) or []
        self.found = self.found or bool(boxes)
        return boxes

    def share(self, path: str, heat: np.ndarray, crop: np.ndarray) -> float:
        """The share of ``heat`` inside the boxes of ``path``; NaN where there are none, or no heat."""
        boxes = self.of(path)
        return heat_inside(heat, crop, boxes) if boxes else math.nan


def read(file: str | Path, bases: Sequence[Path]) -> Boxes:
    """The boxes of ``file``, a CSV, JSON or Parquet table with the columns path, left, top, right, bottom.

    JSON is a list of objects with these keys.

    Relative paths may start in any of ``bases``, the first of which is where those of the run start.

    Raises ``ValueError`` for other columns, and for a box whose edges are no numbers or in the wrong order.
    """
    return Boxes(Path(file).expanduser(), bases)


def heat_inside(heat: np.ndarray, crop: np.ndarray, boxes: list[Box]) -> float:
    """The share of ``heat`` ``[h, w]``, laid over ``crop``, that lies inside any of ``boxes``, in [0, 1].

    It is that of the picture: values between the centres of a map's cells are interpolated linearly. The integral is
    exact, not a sum over pixels. NaN where there is no heat at all.
    """
    whole = _weights(heat.shape[0], 0, 1) @ heat @ _weights(heat.shape[1], 0, 1)
    if not whole > 0:
        return math.nan
    inside = sum(
        float(_weights(heat.shape[0], top, bottom) @ heat @ _weights(heat.shape[1], left, right))
        for left, top, right, bottom in _disjoint(crop, boxes)
    )
    return min(1.0, inside / float(whole))


def covered(crop: np.ndarray, boxes: list[Box]) -> float:
    """The share of ``crop`` that ``boxes`` cover: where heat that knows nothing of the object would lie inside."""
    return sum((right - left) * (bottom - top) for left, top, right, bottom in _disjoint(crop, boxes))


def _disjoint(crop: np.ndarray, boxes: list[Box]) -> list[Box]:
    """The union of ``boxes`` inside ``crop`` as rectangles without overlap, in shares of the crop."""
    left, top, right, bottom = (float(edge) for edge in crop)
    width, height = max(right - left, 1e-9), max(bottom - top, 1e-9)

    def share(value: float, start: float, length: float) -> float:
        return min(1.0, max(0.0, (value - start) / length))

    scaled = [
        (share(a, left, width), share(b, top, height), share(c, left, width), share(d, top, height))
        for a, b, c, d in boxes
    ]
    if len(scaled) == 1:
        return scaled
    across = sorted({edge for box in scaled for edge in (box[0], box[2])})
    pieces = []
    for start, end in itertools.pairwise(across):  # columns between two neighbouring edges
        reached = -1.0
        for _, upper, _, lower in sorted(
            (box for box in scaled if box[0] <= start and box[2] >= end), key=lambda b: b[1]
        ):
            if lower > max(upper, reached):
                pieces.append((start, max(upper, reached), end, lower))
            reached = max(reached, lower)
    return pieces


def _weights(cells: int, start: float, end: float) -> np.ndarray:
    """What each of ``cells`` values of an axis of length 1 adds to the integral from ``start`` to ``end``."""
    return _until(cells, end) - _until(cells, start)


def _until(cells: int, place: float) -> np.ndarray:
    """The integral up to ``place`` of each cell's tent, which ends at its neighbours' centres."""
    distance = (place * cells - np.arange(-1, cells + 1) - 0.5).clip(-1, 1)
    tent = np.where(distance < 0, (1 + distance) ** 2 / 2, 1 - (1 - distance) ** 2 / 2)
    tent[1] += tent[0]  # a cell beyond each end, of the same value: there the heat is flat up to the edge
    tent[-2] += tent[-1]
    return tent[1:-1] / cells


def _lines(file: Path) -> Iterator[tuple[str, Box]]:
    text = file.suffix.lower() not in (".parquet", ".pq", ".json")
    for number, line in enumerate(_table(file), 2 if text else 1):
        try:
            left, top, right, bottom = box = tuple(float(line[name]) for name in _COLUMNS[1:])
            fits = all(map(math.isfinite, box)) and left < right and top < bottom
        except (TypeError, ValueError):
            fits = False
        if not fits:
            got = ", ".join(str(line[name]) for name in _COLUMNS[1:])
            place = f"{'line' if text else 'row'} {number} of {file}"
            raise ValueError(
                f"expected left, top, right, bottom in pixels, left < right and top < bottom, got {got} in {place}"
            )
        yield str(line["path"]), (left, top, right, bottom)


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        lines = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {file}: {reason(error)}") from error
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"expected a list of objects with the keys {', '.join(_COLUMNS)} in {file}")
    return lines


def _table(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() in (".parquet", ".pq"):
        parquet = require("pyarrow.parquet", "dataset")
        try:
            lines = parquet.read_table(file).to_pylist()
        except require("pyarrow", "dataset").ArrowInvalid as error:
            raise ValueError(f"expected a Parquet table of boxes, got {file}: {reason(error)}") from error
        columns = list(lines[0]) if lines else list(_COLUMNS)
    elif file.suffix.lower() == ".json":
        lines = _records(file)
        columns = [name for name in _COLUMNS if all(name in line for line in lines)]
    else:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            lines = list(reader)
            columns = list(reader.fieldnames or ())
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"expected the columns {', '.join(_COLUMNS)} in {file}, got {', '.join(columns) or 'none'}")
    return lines
