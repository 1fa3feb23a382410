"""A folder that appears whole or not at all, in the place of an earlier one of its kind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replaced"]


@contextmanager
def replaced(folder: Path, mark: str) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of ``folder`` once the block ends well.

    Raises ``ValueError`` where ``folder`` holds anything without ``mark`` in its ``index.html``: nothing of the user's is
    ever removed.
    """
    if folder.exists() and not (folder.is_dir() and _ours(folder, mark)):
        raise ValueError(
            f"expected a new folder, an empty one or an earlier report, got {folder} with other things in it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    before = folder.with_name(f".{folder.name}.{os.getpid()}.before")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            os.replace(folder, before)
        os.replace(partial, folder)
    finally:
        if before.exists() and not folder.exists():  # the new one could not take its place
            os.replace(before, folder)
        shutil.rmtree(before, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)


def _ours(folder: Path, mark: str) -> bool:
    index = folder / "index.html"
    if index.is_file():
        return mark in index.read_text(encoding="utf-8", errors="replace")[:2000]
    return not any(folder.iterdir())
