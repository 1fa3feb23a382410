"""``camfast.report``: from the shards of a data set run to a folder of HTML."""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..dataset.settings import read_settings
from ..dataset.shards import check_folder, shard_files
from ..errors import require
from ..ops import colormaps
from . import boxes as tables_of_boxes
from . import data, thumbnails, views
from .folder import replaced
from .page import MARK, as_page
from .rows import Rows, count, read, unreadable

__all__ = ["report"]

MANY, SIDES = 50_000, (28, 14)
"""Up to so many rows maps keep up to 28 cells a side, above that up to 14."""


def report(
    out: str | Path,
    folder: str | Path | None = None,
    *,
    boxes: str | Path | None = None,
    root: str | Path = ".",
    pictures: int = 400,
    title: str | None = None,
    colormap: str = colormaps.COLORMAP,
    progress: bool = True,
) -> Path:
    """Writes a report about a run of :func:`camfast.explain_dataset`: a folder of HTML that opens from disk.

    What it shows: how many images are right; the pairs of classes that are confused, with heat of both; the mean heat of
    each class; and all images, the certain errors first, to filter by class and score, to search and to sort. It holds
    the maps, small pictures of the images that are shown first, and links to the photographs, from which the browser
    draws all others. ``rows.csv`` in it has every row without its map. The same run gives the same bytes.

    Args:
        out: the folder that the run was written to.
        folder: where the report goes; None: ``out/report``. An earlier report there is replaced, once the new one is whole.
        boxes: a CSV, JSON or Parquet table of where the objects are: path, left, top, right, bottom, in pixels of the
            photograph; several rows of a path are several boxes. The report then says how much of the heat lies inside.
        root: where relative paths of the run start.
        pictures: how many small pictures are written at most. Those of all images make a report that can be sent without
            the photographs.
        title: of the page; None: made of model and folder.
        colormap: the colours of the heat, by name.
        progress: whether a bar is shown on the error output.

    Returns:
        The path of the report's ``index.html``.

    Raises:
        ValueError: ``out`` holds no shards, or ``folder`` holds something else than a report; a table of boxes with other
            columns, or without any photograph of the run.
        OSError: the folder cannot be written.
    """
    run, root = Path(out).expanduser(), Path(root).expanduser().absolute()
    place = run / "report" if folder is None else Path(folder).expanduser()
    if pictures < 0:
        raise ValueError(f"pictures must be 0 or more, got {pictures}")
    shards = shard_files(check_folder(run))
    if not shards:
        raise ValueError(f"expected a run with results, got {run} without shards: start camfast dataset again")
    facts = read_settings(run)
    table = None if boxes is None else tables_of_boxes.read(boxes, [root, *_source(facts)])
    with replaced(place, MARK) as partial:
        names = dict(enumerate(facts.get("class_names") or ()))
        total = count(shards)
        with _bar("rows", total, progress) as done:
            found = read(shards, names, SIDES[total > MANY], None if table is None else table.share, done)
        if table is not None and not table.found:
            raise ValueError(
                f"expected boxes of the run's photographs in {boxes}, got none; its first path is {table.first!r}, that of "
                f"the run {found.columns['path'][0]!r}"
            )
        missing = unreadable(run)
        scripts = _write(partial, place, found, table, root, pictures, colormap, progress)
        images = views.Images.of(found)
        heading = title or f"{facts.get('model') or 'A network'} on {run.resolve().name}"
        pairs = len(views.pairs(images))
        page = as_page(heading, _facts(facts, found), images, pairs, missing, scripts)
        (partial / "index.html").write_text(page, encoding="utf-8")
        if missing:
            shutil.copyfile(run / "unreadable.csv", partial / "unreadable.csv")
    return place / "index.html"


def _write(
    partial: Path,
    place: Path,
    rows: Rows,
    boxes: tables_of_boxes.Boxes | None,
    root: Path,
    pictures: int,
    colormap: str,
    progress: bool,
) -> list[str]:
    """The report's files but its page; returns those that the page loads at once."""
    images = views.Images.of(rows)
    pairs = views.pairs(images)
    shown = views.first_shown(images, pairs)[:pictures]
    photos = [(image, root / rows.columns["path"][rows.starts[image]]) for image in shown]
    with _bar("pictures", len(photos), progress) as done:
        small = thumbnails.write(photos, partial / "pictures", done)
    (partial / "data").mkdir()
    folders = data.Folders(root, place.absolute())
    scripts = []
    for number, members in data.chunks(rows.images, data.IMAGES):
        scripts.append(f"data/images-{number:03d}.js")
        text = data.script("images", data.images(rows, members, folders))
        (partial / scripts[-1]).write_text(text, encoding="ascii")
    with _bar("images", rows.images, progress) as done:
        for number, members in data.chunks(rows.images, data.DETAILS):
            text = data.script("details", number, *data.details(rows, members, boxes, small))
            (partial / f"data/details-{number:05d}.js").write_text(text, encoding="ascii")
            done(len(members))
    summary = {
        "names": {str(number): name for number, name in sorted(rows.names.items()) if number in _named(rows)},
        "folders": list(zip(folders.numbers, folders.links, strict=True)),
        "pairs": pairs,
        "classes": [_packed(entry) for entry in views.classes(rows, images)],
        "histogram": views.histogram(images),
        "boxes": boxes is not None,
        "details": data.DETAILS,
        "pairsShown": views.PAIRS,
        "ofPair": views.SHOWN_OF_PAIR,
        "shown": views.SHOWN,
        "colors": base64.b64encode(colormaps.table(colormap).numpy().tobytes()).decode("ascii"),
        "alpha": colormaps.ALPHA,
    }
    (partial / "data/summary.js").write_text(data.script("summary", summary), encoding="ascii")
    with _bar("table", len(rows), progress) as done:
        data.write_csv(rows, partial / "rows.csv", done)
    return ["data/summary.js", *scripts]


def _named(rows: Rows) -> set[int]:
    """The classes that the page has to name."""
    numbers = {int(number) for kind in ("label", "prediction", "target") for number in set(rows.columns[kind].tolist())}
    return numbers.union(*(best or () for best in rows.columns["top_classes"]))


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    heat = entry["map"]
    if heat is None:
        return {**entry, "map": None, "size": [1, 1]}
    return {**entry, "map": base64.b64encode(heat.tobytes()).decode("ascii"), "size": list(heat.shape)}


def _facts(facts: dict[str, Any], rows: Rows) -> list[tuple[str, Any]]:
    """The settings that a reader asks for; what ``run.json`` does not say is taken from the rows."""
    told = [(name, facts[name]) for name in ("model", "source") if facts.get(name) is not None]
    for name in ("method", "layer", "version"):
        values = dict.fromkeys(str(value) for value in rows.columns[name] if value is not None)
        told.append(("camfast" if name == "version" else name, ", ".join(values)))
    return [*told, ("rows", f"{len(rows):,}")]


def _source(facts: dict[str, Any]) -> list[Path]:
    """The folder that the run read, where tables of boxes may start their paths too."""
    _, _, place = str(facts.get("source") or "").partition(" ")
    return [Path(place)] if place and Path(place).is_dir() else []


class _bar:
    """A bar on the error output, where it is wanted and tqdm is there; gives what is told of progress."""

    def __init__(self, what: str, total: int, wanted: bool) -> None:
        try:
            tqdm = require("tqdm", "vision").tqdm if wanted else None
        except ImportError:
            tqdm = None
        self.bar = None if tqdm is None else tqdm(total=total, desc=what, unit="", file=sys.stderr)

    def __enter__(self) -> Callable[[int], Any]:
        return (lambda count: None) if self.bar is None else self.bar.update

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
