"""What commands over photographs share: finding them, showing progress, telling what fails as it fails."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import require
from ..pictures import photos
from .tables import printable

__all__ = ["collect", "exit_code", "find"]

Entries = list[tuple[Path | None, Any]]
"""Of each photograph what was found, or the ``PhotoError`` that says why nothing was."""


def find(options: argparse.Namespace, command: str) -> tuple[Path, list[Path], Entries]:
    """The folder to write into, the photographs that were named, and the places without any, which are told."""
    require("tqdm", "vision")
    require("PIL", "vision")
    folder = Path(options.output).expanduser()
    files, errors = photos.find(options.photos, without=[folder])
    for error in errors:
        print(f"camfast {command}: {printable(str(error))}", file=sys.stderr)
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    return folder, list(files), [(None, error) for error in errors]


def collect(results: Iterable[Any], files: Sequence[Path], entries: Entries, command: str) -> None:
    """Adds the results to ``entries`` as they come, behind a bar where there are several."""
    tqdm = require("tqdm", "vision").tqdm
    bar = tqdm(results, total=len(files), unit="photo", disable=len(files) == 1, file=sys.stderr)
    try:
        for result, file in zip(bar, files, strict=True):
            entries.append((file, result))
            if isinstance(result, photos.PhotoError):
                tqdm.write(f"camfast {command}: {printable(str(result))}", file=sys.stderr)
    finally:
        bar.close()


def exit_code(entries: Entries) -> int:
    """1 where some photograph could not be done."""
    return 1 if any(isinstance(found, photos.PhotoError) for _, found in entries) else 0
