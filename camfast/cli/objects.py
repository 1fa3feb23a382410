"""Where the objects of photographs are: boxes of a table, brought to what the network saw of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..pictures.frames import Box
from ..reports import boxes as tables

__all__ = ["on_input", "read"]


def read(file: str, photos: Sequence[str]) -> tables.Boxes:
    """The boxes of ``file``; relative paths start where the command runs, in a folder of ``photos``, or beside the table.

    Raises ``ValueError`` for a table that holds no boxes, ``OSError`` for one that cannot be read.
    """
    places = [Path(photo).expanduser() for photo in photos]
    return tables.read(file, [Path.cwd(), *(place for place in places if place.is_dir())])


def on_input(
    table: tables.Boxes, files: Sequence[Path], crops: Sequence[Box], size: tuple[int, int], tell: Callable[[str], None]
) -> list[Tensor | None]:
    """Each photograph's boxes in pixels of the network's input ``size``, ``[B, 4]``, or None where it has none there.

    ``crops`` are the parts of the photographs that the network saw. Photographs without a box are told by ``tell``.

    Raises ``ValueError`` where no photograph has any.
    """
    height, width = size
    limits = torch.tensor([width, height] * 2)
    found: list[Tensor | None] = []
    for file, (left, top, right, bottom) in zip(files, crops, strict=True):
        own = torch.tensor(table.of(str(file)), dtype=torch.float64).view(-1, 4)
        start, side = torch.tensor([left, top] * 2), torch.tensor([right - left, bottom - top] * 2)
        seen = ((own - start) / side * limits).clamp(min=0).minimum(limits)
        seen = seen[(seen[:, 2] > seen[:, 0]) & (seen[:, 3] > seen[:, 1])]
        found.append(seen.float() if len(seen) else None)
    if not table.found:
        raise ValueError(f"expected boxes of the photographs, got none; the table's first path is {table.first!r}")
    if all(boxes is None for boxes in found):
        raise ValueError("expected a box in what the network sees of the photographs, got none: try --fit stretch")
    without = sum(boxes is None for boxes in found)
    if without:
        have = "has" if without == 1 else "have"
        tell(f"{without} of {len(files)} photographs {have} no box in what the network sees: not in metrics of objects")
    return found
