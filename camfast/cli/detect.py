"""``camfast detect``: its arguments, and what it prints. The work is done in :mod:`camfast.cli.detections`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..detection import DetectionExplainer
from ..pictures import photos
from . import rounds
from .arguments import add_heat, add_photos
from .detections import Explained, Style, write_detections
from .detectors import add_boxes, add_detector, class_words, load_detector
from .documents import as_document, save_text, table_text
from .page import Card, as_page
from .tables import Number, aligned

__all__ = ["add_arguments", "run"]

COLUMNS = (
    "photo",
    "rank",
    "class",
    "number",
    "score",
    "left",
    "top",
    "right",
    "bottom",
    "milliseconds",
    "picture",
    "maps",
    "error",
)

Entry = tuple[Path | None, Explained | photos.PhotoError]
"""A photograph, or a place without any (None), and what became of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast detect``."""
    add_photos(parser)
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "-o",
        "--output",
        default="detections",
        metavar="DIR",
        help="folder for the pictures, in subfolders as the photographs (%(default)s)",
    )
    out.add_argument(
        "--format", choices=["jpg", "png", "webp"], default="jpg", help="of the pictures (%(default)s); png is lossless"
    )
    out.add_argument("--each", action="store_true", help="a picture of each box alone too")
    out.add_argument("--csv", metavar="FILE", help="a table of photographs, boxes, classes, scores and files")
    out.add_argument("--json", metavar="FILE", help="the same as a document, with what was run")
    out.add_argument("--html", "--page", metavar="FILE", help="the pictures as a page, to search and to sort")
    out.add_argument(
        "--maps", choices=["npz"], help="boxes and heat of each photograph as arrays, a NumPy file beside its picture"
    )
    add_detector(parser)
    boxes = add_boxes(parser)
    boxes.add_argument(
        "--explain",
        choices=["score", "quality", "mask"],
        default="score",
        help="what the heat of a box is of: its class's score, its quality, its mask (%(default)s)",
    )
    add_heat(parser, "layer_cam", targets=False)


def run(options: argparse.Namespace) -> int:
    """Explains the photographs; the exit code is 1 where some could not be done."""
    start = time.perf_counter()
    folder, files, entries = rounds.find(options, "detect")
    if not files:
        return 1
    detector = load_detector(options)
    explainer = DetectionExplainer(
        detector.model,
        options.method,
        options.layer,
        explain=options.explain,
        class_names=detector.class_names,
        prepare=detector.prepare,
        image_size=detector.side,
    )
    wanted = {"classes": class_words(options), "min_score": options.min_score, "top": options.top}
    style = Style(options.colormap, options.alpha, f".{options.format}", options.each, options.maps is not None)
    results = write_detections(files, explainer, folder, wanted, places=options.photos, style=style)
    try:
        rounds.collect(results, files, entries, "detect")
    finally:  # also after Ctrl-C: what is done is told
        _tell(options, detector.name, explainer, entries, time.perf_counter() - start)
    return rounds.exit_code(entries)


def _tell(
    options: argparse.Namespace, name: str, explainer: DetectionExplainer, entries: Sequence[Entry], seconds: float
) -> None:
    """Prints the table, and writes those that were asked for."""
    done = [found for _, found in entries if isinstance(found, Explained)]
    summary = _summary(options.method, name, explainer, done, seconds) if done else ""
    if done:
        print(_listing(done))
        print(f"\n{summary}")
    if options.csv is not None:
        save_text(table_text(COLUMNS, _rows(entries)), options.csv)
    if options.json is not None:
        facts = {
            "model": options.model,
            "method": options.method,
            "explained": options.explain,
            "layers": explainer.layers,
            "min_score": options.min_score,
            "seconds": seconds,
        }
        save_text(_document(entries, facts), options.json)
    if options.html is not None:
        place = Path(options.html).expanduser()
        title = f"What {name} found in {len(done)} photograph{'s' * (len(done) != 1)}"
        cards = [found if isinstance(found, photos.PhotoError) else [_card(found)] for _, found in entries]
        save_text(as_page(cards, place, title, summary), place)


def _listing(done: Sequence[Explained]) -> str:
    head = ["photo", "class", "score", "box", "ms", "file"]
    cells: list[list[Any]] = []
    for found in done:
        milliseconds = Number(f"{found.milliseconds:.1f}")
        for box in found.boxes:
            corners = Number(" ".join(f"{corner:.0f}" for corner in box.corners))
            cells.append(
                [found.photo, box.class_name, Number(f"{box.score:.3f}"), corners, milliseconds, box.file or found.file]
            )
        if not found.boxes:
            cells.append([found.photo, "no box", Number(""), Number(""), milliseconds, found.file])
    return aligned(head, cells)


def _rows(entries: Sequence[Entry]) -> list[list[Any]]:
    """A row per box; one for a photograph without any, and for one that failed."""
    rows: list[list[Any]] = []
    for photo, found in entries:
        if isinstance(found, photos.PhotoError):
            rows.append([photo or "", *[""] * (len(COLUMNS) - 2), found])
            continue
        end = [f"{found.milliseconds:.2f}", found.file, found.maps or "", ""]
        for rank, box in enumerate(found.boxes, 1):
            corners = [f"{corner:.1f}" for corner in box.corners]
            rows.append([photo, rank, box.class_name, box.number, f"{box.score:.6f}", *corners, *end])
        if not found.boxes:
            rows.append([photo, *[""] * 8, *end])
    return rows


def _document(entries: Sequence[Entry], facts: dict[str, Any]) -> str:
    listed: list[dict[str, Any]] = []
    for photo, found in entries:
        if isinstance(found, photos.PhotoError):
            listed.append({"photo": None if photo is None else str(photo), "error": str(found)})
            continue
        boxes = [
            {"class": box.class_name, "number": box.number, "score": box.score, "box": box.corners}
            | ({} if box.file is None else {"picture": str(box.file)})
            for box in found.boxes
        ]
        files = {"picture": str(found.file)} | ({} if found.maps is None else {"maps": str(found.maps)})
        listed.append({"photo": str(photo), "milliseconds": found.milliseconds, **files, "boxes": boxes})
    return as_document(facts, listed)


def _card(found: Explained) -> Card:
    """A photograph on the page: what is in it, and the score of its surest box."""
    counts = Counter(box.class_name for box in found.boxes)
    words = ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())
    return Card(words or "no box", found.boxes[0].score if found.boxes else 0.0, found.photo, found.file)


def _summary(method: str, name: str, explainer: DetectionExplainer, done: Sequence[Explained], seconds: float) -> str:
    """What was run, and how long it took."""
    count, boxes = len(done), sum(len(found.boxes) for found in done)
    mean = sum(found.milliseconds for found in done) / count
    at = f" at {', '.join(explainer.layers)}" if explainer.layers else ""
    return (
        f"{method} of {name}{at}; each box's heat by its own range\n"
        f"{boxes} box{'es' * (boxes != 1)} in {count} photograph{'s' * (count != 1)} in {seconds:.1f} s with loading and "
        f"drawing; boxes and heat alone: {mean:.1f} ms per photograph"
    )
