"""Photographs on disk as a source: a folder with or without classes, a list of files, a table of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import or_rather, require
from ..pictures import photos
from .items import Item, Listed

__all__ = ["Files", "listed_files", "of_folder", "of_table"]

TABLES = (".csv", ".tsv", ".parquet")


class Files(Listed):
    """Photographs by their paths, each with a label where it is known.

    ``labels`` are numbers (in the order of ``names``, where those are known), names, or None.
    """

    kind = "files"

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        place: str = "",
    ) -> None:
        self.paths, self.labels, self.names, self.place = paths, labels, names, place

    def __len__(self) -> int:
        return len(self.paths)

    def item(self, index: int) -> Item:
        label = None if self.labels is None else self.labels[index]
        if isinstance(label, str):
            return Item(index, self.paths[index], None, label)
        return Item(index, self.paths[index], label)

    def load(self, index: int) -> tuple[Item, np.ndarray]:
        return self.item(index), photos.read(self.paths[index])


def of_folder(folder: Path, without: Sequence[Path] = ()) -> Files:
    """All photographs below ``folder``; its own subfolders are their classes, in the order of their names.

    As torchvision's ImageFolder numbers them; deeper folders belong to the class above them, and photographs that lie in
    ``folder`` itself have none.
    """
    files, errors = photos.find([folder], without)
    if errors:
        raise ValueError(str(errors[0]))
    left_out = {path.resolve() for path in without}
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".") and Path(entry.path).resolve() not in left_out
    )
    number = {name: index for index, name in enumerate(names)}
    inside = [file.relative_to(folder).parts for file in files]
    labels = [number[parts[0]] if len(parts) > 1 else None for parts in inside]
    source = Files(
        [os.path.abspath(file) for file in files], labels if names else None, names or None, os.path.abspath(folder)
    )
    source.folders = True
    return source


def listed_files(places: Sequence[str | os.PathLike[str]], without: Sequence[Path] = ()) -> Files:
    """The photographs that files, folders and patterns name, without labels, each once.

    A file that is named itself is among them whether it exists or not, so that it is listed as unreadable.
    """
    files, errors = photos.find(places, without)
    if errors and not files:
        raise ValueError(str(errors[0]))
    place = os.path.abspath(places[0]) if len(places) == 1 else f"{len(places)} places"
    return Files([os.path.abspath(file) for file in files], place=place)


def of_table(file: Path, path_column: str, label_column: str | None) -> Files:
    """The photographs of a CSV or Parquet table; relative paths start at the table's folder, each path counts once."""
    require("pyarrow", "dataset")
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if file.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(file)
        else:
            separator = "\t" if file.suffix.lower() == ".tsv" else ","
            table = pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter=separator))
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"cannot read {file} as a table: {str(error).splitlines()[0].rstrip('.')}") from error
    given = "label" if label_column is None else label_column
    for column, needed in ((path_column, True), (given, label_column is not None)):
        if needed and column not in table.column_names:
            other = or_rather([], table.column_names)
            name = "path_column" if needed and column == path_column else "label_column"
            told = f"name yours by {name}= (--{name.replace('_', '-')})"
            raise ValueError(f"expected a column {column!r} in {file}, got none{other}; {told}")
    labels = table.column(given).to_pylist() if given in table.column_names else [None] * len(table)
    folder = Path(os.path.abspath(file)).parent
    rows: dict[str, Any] = {}
    for path, label in zip(table.column(path_column).to_pylist(), labels, strict=True):
        if path is not None:
            rows.setdefault(os.path.normpath(folder / Path(str(path)).expanduser()), _label(label, given, file))
    if not rows:
        raise ValueError(f"expected paths in the column {path_column!r} of {file}, got none")
    known = any(label is not None for label in rows.values())
    return Files(list(rows), list(rows.values()) if known else None, None, os.path.abspath(file))


def _label(value: Any, column: str, file: Path) -> int | str | None:
    """A class number, a name or None; -1 and an empty cell are none."""
    if value is None or value == "" or value == -1 or value != value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value) and value >= 0:
        return int(value)
    raise ValueError(f"expected class numbers or names in the column {column!r} of {file}, got {value!r}")
