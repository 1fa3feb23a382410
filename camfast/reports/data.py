"""A report's data as scripts, which a page opened from disk may load: one line of images each, details by the hundred."""

from __future__ import annotations

import base64
import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from .boxes import Boxes, covered
from .rows import NONE, Rows

__all__ = ["DETAILS", "IMAGES", "chunks", "details", "images", "script", "write_csv"]

IMAGES, DETAILS = 20_000, 200
"""Images per script: of what filters look at, which is loaded at once; and of what cards show, loaded when they do."""

_ROLES = ("prediction", "label", "target")


def script(call: str, *values: Any) -> str:
    """A call of the page's function ``call``; ASCII alone, so that no character of a file name can end or change it."""
    listed = ",".join(json.dumps(value, ensure_ascii=True, separators=(",", ":")) for value in values)
    return f"report.{call}({listed.replace('<', chr(92) + 'u003c')});\n"


def chunks(count: int, size: int) -> Iterator[tuple[int, range]]:
    """The number and the images of each chunk."""
    for start in range(0, count, size):
        yield start // size, range(start, min(start + size, count))


class Folders:
    """The folders that images lie in, each with its address from the report's page."""

    def __init__(self, root: Path, report: Path) -> None:
        self.root, self.report = root, report
        self.numbers: dict[str, int] = {}
        self.links: list[str] = []

    def split(self, path: str) -> tuple[int, str]:
        """The folder's number and the file's name."""
        name = path.replace("\\", "/").rpartition("/")[2] if os.name == "nt" else path.rpartition("/")[2]
        folder = path[: len(path) - len(name)]
        if folder not in self.numbers:
            self.numbers[folder] = len(self.links)
            self.links.append(self._link(folder))
        return self.numbers[folder], name

    def _link(self, folder: str) -> str:
        place = os.path.abspath(self.root / folder)
        try:
            link = quote(Path(os.path.relpath(place, self.report)).as_posix())
        except ValueError:  # another drive
            link = Path(place).as_uri()
        return link.rstrip("/") + "/"


def images(rows: Rows, members: range, folders: Folders) -> dict[str, list[Any]]:
    """What filters, search and orders look at, in columns."""
    first = rows.starts[members.start : members.stop]
    places = [folders.split(rows.columns["path"][i]) for i in first]
    return {
        "folder": [folder for folder, _ in places],
        "name": [name for _, name in places],
        "label": rows.columns["label"][first].tolist(),
        "prediction": rows.columns["prediction"][first].tolist(),
        "probability": [_number(value) for value in rows.columns["probability"][first]],
        "inside": [_number(value, 3) for value in rows.inside[first]],
    }


def details(rows: Rows, members: range, boxes: Boxes | None, small: set[int]) -> tuple[list[Any], str]:
    """What cards show of each image, and the bytes of all their maps, one after another, in base64.

    Per image: height, width, the part that the network saw (0: all of it), the rows, the best classes with their scores,
    boxes, the share that these cover, and whether there is a small picture. A row is target, role, score, probability,
    share inside, height and width of its map.
    """
    columns = rows.columns
    listed, maps = [], []
    for image in members:
        first = int(rows.starts[image])
        height, width = (int(columns[name][first]) for name in ("height", "width"))
        crop = [round(float(edge), 1) for edge in rows.crop[first]]
        of_image = []
        for i in rows.of(image):
            role = columns["role"][i]
            numbers = _number(columns["target_score"][i]), _number(columns["target_probability"][i])
            kind = _ROLES.index(role) if role in _ROLES else 2
            share = _number(rows.inside[i], 3)
            of_image.append([int(columns["target"][i]), kind, *numbers, share, *rows.maps[i].shape])
            maps.append(rows.maps[i].tobytes())
        scores = [_number(score) for score in columns["top_scores"][first] or ()]
        best = list(zip(columns["top_classes"][first] or (), scores, strict=False))
        found = boxes.of(columns["path"][first]) if boxes is not None else []
        edges = [[round(edge, 1) for edge in box] for box in found]
        share = _number(covered(rows.crop[first], found), 3) if found else None
        whole = crop == [0, 0, width, height]
        listed.append([height, width, 0 if whole else crop, of_image, best, edges, share, int(image in small)])
    return listed, base64.b64encode(b"".join(maps)).decode("ascii")


def write_csv(rows: Rows, path: Path, done: Callable[[int], Any] = lambda count: None) -> None:
    """All rows without their maps; lists as words with spaces between."""
    columns = rows.columns
    named = {kind: f"{kind}_name" for kind in ("label", "prediction", "target")}
    head = [*columns]
    with open(path, "w", encoding="utf-8", newline="") as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*head, *named.values(), "left", "top", "right", "bottom", "heat_inside"])
        for i in range(len(rows)):
            cells = [_cell(columns[name][i], name in named) for name in head]
            names = [rows.name(columns[kind][i]) if columns[kind][i] != NONE else "" for kind in named]
            table.writerow(
                [*cells, *names, *(f"{edge:g}" for edge in rows.crop[i].tolist()), _cell(rows.inside[i], False)]
            )
            if i % 1024 == 1023:
                done(1024)
        done(len(rows) % 1024)


def _cell(value: Any, optional: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return " ".join(str(_cell(one, False)) for one in value)
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None or (optional and value == NONE) else value


def _number(value: Any, digits: int = 4) -> float | None:
    """Rounded, as JSON can say it."""
    value = None if value is None else float(value)
    return None if value is None or not math.isfinite(value) else round(value, digits)
