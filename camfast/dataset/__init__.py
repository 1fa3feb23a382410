"""Data sets explained: any number of pictures in, Parquet shards of scores and low-resolution maps out.

:func:`explain_dataset` reads a folder, a list, a table, a torch data set or tar shards; killed at any moment and started
again it goes on. :func:`read_maps` gives the maps back at any size.
"""

from __future__ import annotations

from .maps import Maps, read_maps
from .run import DatasetRun, explain_dataset
from .shards import read_table, schema

__all__ = ["DatasetRun", "Maps", "explain_dataset", "read_maps", "read_table", "schema"]
