"""What can be explained: anything that a user may call a data set becomes a :class:`~.items.Source`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from .files import TABLES, listed_files, of_folder, of_table
from .items import Listed, Source, Streamed
from .tars import Tars, is_tars
from .torch_data import Loader, OfDataset, OfIterable

__all__ = ["Listed", "Source", "Streamed", "open_source"]


def open_source(
    source: Any, path_column: str = "path", label_column: str | None = None, without: Sequence[Path] = ()
) -> Source:
    """The source that ``source`` stands for; folders ``without`` are left out of it.

    Raises:
        TypeError: it is nothing that holds pictures.
        ValueError: it holds none, or cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_place(str(source), path_column, label_column, without)
    if isinstance(source, DataLoader):
        return Loader(source)
    if isinstance(source, IterableDataset):
        return OfIterable(source)
    if isinstance(source, (list, tuple)):
        places = [str(place) for place in source if isinstance(place, (str, os.PathLike))]
        if len(places) < len(source):
            odd = next(place for place in source if not isinstance(place, (str, os.PathLike)))
            raise TypeError(f"a list as the source must be of paths, got {type(odd).__name__} in it")
        if not places:
            raise ValueError("expected photographs, got an empty list")
        if len(places) == 1:
            return _of_place(places[0], path_column, label_column, without)
        return Tars(places) if all(map(is_tars, places)) else listed_files(places, without)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, dict):
        if not len(source):
            raise ValueError("expected photographs, got an empty data set")
        return OfDataset(source)
    raise TypeError(
        "source must be a folder, a list of files, a table, tar shards, or a Dataset or DataLoader of torch, got "
        f"{type(source).__name__}"
    )


def _of_place(place: str, path_column: str, label_column: str | None, without: Sequence[Path]) -> Source:
    if is_tars(place):
        return Tars(sorted(glob.glob(place)) if "*" in place else [place])
    path = Path(place).expanduser()
    if path.is_dir():
        return of_folder(path, without)
    if path.suffix.lower() in TABLES:
        return of_table(path, path_column, label_column)
    return listed_files([place], without)
