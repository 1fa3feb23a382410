"""What ``camfast image`` found, as a table (CSV) or a document (JSON): every photograph, those that failed with the reason."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pictures.photos import PhotoError
from ..version import __version__
from .photographs import Overlay

__all__ = ["Entry", "as_csv", "as_document", "as_json", "save_text", "table_text"]

Entry = tuple[Path | None, list[Overlay] | PhotoError]
"""A photograph, or a place without any (None), and what became of it."""

COLUMNS = (
    "photo",
    "rank",
    "class",
    "number",
    "score",
    "milliseconds",
    "batch",
    "picture",
    "maps",
    "error",
)


def as_csv(entries: Sequence[Entry]) -> str:
    """A row per photograph and class."""
    rows: list[Sequence[Any]] = []
    for photo, found in entries:
        if isinstance(found, PhotoError):
            rows.append([photo or "", *[""] * (len(COLUMNS) - 2), found])
            continue
        for row in found:
            numbers = f"{row.score:.6f}", f"{row.milliseconds:.2f}", row.batch
            names = row.photo, row.rank, row.class_name, row.class_number
            rows.append([*names, *numbers, row.file, row.maps or "", ""])
    return table_text(COLUMNS, rows)


def as_json(entries: Sequence[Entry], facts: dict[str, Any]) -> str:
    """``facts`` of the run, and a list of photographs with their classes."""
    listed: list[dict[str, Any]] = []
    for photo, found in entries:
        if isinstance(found, PhotoError):
            listed.append({"photo": None if photo is None else str(photo), "error": str(found)})
            continue
        classes = [
            {
                "rank": row.rank,
                "class": row.class_name,
                "number": row.class_number,
                "score": row.score,
                "picture": str(row.file),
            }
            for row in found
        ]
        first = found[0]
        entry = {"photo": str(photo), "milliseconds": first.milliseconds, "batch": first.batch, "classes": classes}
        listed.append(entry if first.maps is None else {**entry, "maps": str(first.maps)})
    return as_document(facts, listed)


def table_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """``rows`` below ``columns``, as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return text.getvalue()


def as_document(facts: dict[str, Any], photographs: Sequence[dict[str, Any]]) -> str:
    """``facts`` of the run and what is known of each photograph, as JSON."""
    return (
        json.dumps({"camfast": __version__, **facts, "photographs": photographs}, indent=1, ensure_ascii=False) + "\n"
    )


def save_text(text: str, path: str | Path) -> Path:
    """Writes ``text``; the file appears whole or not at all. Raises ``OSError`` where it cannot be written.

    Bytes of a file's name that are no UTF-8 are written as ``\\udcXX``, which JSON reads as what Python calls the file.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
