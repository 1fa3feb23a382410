"""The shards: Parquet files that appear whole or not at all, and hold a row for each picture and target."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import reason, require

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Writer", "check_folder", "done_keys", "read_table", "schema", "shard_files", "write_whole"]

SECONDS = 60.0  # of work that a kill may cost
_SHARD = re.compile(r"part-(\d+)-\d+\.parquet")


def schema() -> pyarrow.Schema:
    """The columns of every shard; :doc:`docs/datasets.md` says what they mean."""
    arrow = require("pyarrow", "dataset")
    text, number, real = arrow.string(), arrow.int32(), arrow.float32()
    needed = {"nullable": False}
    return arrow.schema(
        [
            arrow.field("path", text, **needed),
            arrow.field("index", arrow.int64(), **needed),
            arrow.field("label", number),
            arrow.field("label_name", text),
            arrow.field("prediction", number, **needed),
            arrow.field("prediction_name", text),
            arrow.field("probability", real, **needed),
            arrow.field("top_classes", arrow.list_(number), **needed),
            arrow.field("top_scores", arrow.list_(real), **needed),
            arrow.field("target", number, **needed),
            arrow.field("target_name", text),
            arrow.field("target_score", real, **needed),
            arrow.field("target_probability", real, **needed),
            arrow.field("role", text, **needed),
            arrow.field("map", arrow.binary(), **needed),
            arrow.field("map_height", arrow.int16(), **needed),
            arrow.field("map_width", arrow.int16(), **needed),
            arrow.field("layer", text, **needed),
            arrow.field("method", text, **needed),
            arrow.field("version", text, **needed),
            arrow.field("height", number, **needed),
            arrow.field("width", number, **needed),
            arrow.field("crop", arrow.list_(real)),
        ]
    )


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file that has its name once it is complete and on the disk, so that no reader meets half of it.

    Raises ``OSError`` where it cannot be written; then no part of it is left.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        why = os.strerror(error.errno).lower() if error.errno else reason(error)
        raise OSError(
            f"cannot write {path}: {why}; what was written before is whole, and the same start goes on"
        ) from error
    with contextlib.suppress(OSError):  # a file system without it, or Windows
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def shard_files(out: str | os.PathLike[str]) -> list[Path]:
    """The shards of ``out`` in the order in which they were written."""
    return sorted(path for path in (Path(out) / "shards").glob("part-*.parquet") if _SHARD.fullmatch(path.name))


def check_folder(out: str | os.PathLike[str]) -> Path:
    """``out`` as a path. Raises ``ValueError`` where :func:`camfast.explain_dataset` has not written."""
    folder = Path(out).expanduser()
    if not (folder / "run.json").is_file():
        raise ValueError(f"expected a folder that camfast dataset has written, got {folder}, which holds no run.json")
    return folder


class Writer:
    """Collects rows and writes them as shards, of ``images`` pictures each or of a minute's work.

    Shards are called after the start that wrote them and their number in it, so that no start touches another's.
    """

    def __init__(self, out: Path, images: int) -> None:
        self.folder, self.images = out / "shards", images
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".*.part"):
            partial.unlink()
        starts = [int(match[1]) for path in shard_files(out) if (match := _SHARD.fullmatch(path.name))]
        self._start, self._number = max(starts, default=-1) + 1, 0
        self._rows: list[dict[str, Any]] = []
        self._held, self._since = 0, time.monotonic()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes the rows of some pictures, all of each."""
        if not rows:
            return
        if not self._rows:
            self._since = time.monotonic()
        self._rows += rows
        self._held += len({row["index"] for row in rows})
        if self._held >= self.images or time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what was taken."""
        if not self._rows:
            return
        arrow = require("pyarrow", "dataset")
        parquet = require("pyarrow.parquet", "dataset")
        table = arrow.Table.from_pylist(self._rows, schema())
        name = f"part-{self._start:04d}-{self._number:06d}.parquet"
        write_whole(self.folder / name, lambda file: parquet.write_table(table, file, compression="zstd"))
        self._number += 1
        self._rows, self._held = [], 0


def done_keys(out: Path, column: str) -> set[Any]:
    """What ``column`` ("path" or "index") holds in the shards."""
    parquet = require("pyarrow.parquet", "dataset")
    found: set[Any] = set()
    for file in shard_files(out):
        found.update(parquet.ParquetFile(file).read([column]).column(column).to_pylist())
    return found


def read_table(out: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pyarrow.Table:
    """All rows as one Arrow table, in the order in which they were written; ``columns`` are those to read (all).

    Raises ``ValueError`` where :func:`camfast.explain_dataset` has not written.
    """
    arrow = require("pyarrow", "dataset")
    tables = list(_tables(check_folder(out), columns))
    return arrow.concat_tables(tables) if tables else schema().empty_table().select(list(columns or schema().names))


def _tables(out: Path, columns: Sequence[str] | None) -> Iterator[pyarrow.Table]:
    parquet = require("pyarrow.parquet", "dataset")
    for file in shard_files(out):
        yield parquet.ParquetFile(file).read(None if columns is None else list(columns))
