"""What the dimensions of an activation are. The generator knows; camfast has to find out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["Axes", "Call"]


@dataclass(frozen=True)
class Axes:
    """How a tensor becomes ``[M, C, *map]``, with the map's dimensions in the order of the image's axes.

    Attributes:
        layout: ``"NC*"``, ``"N*C"`` (channels last), ``"NTC"`` and ``"TNC"`` (rows of positions), or ``"windows"``:
            ``[M * windows, positions of a window, C]``, which ``window`` says the sides of.
        map: the map's sizes, in the tensor's own order.
        along: the image's axis that each of the map's dimensions runs along.
        prefix: tokens before the positions.
        window: the sides of a window.
    """

    layout: str
    map: tuple[int, ...]
    along: tuple[int, ...]
    prefix: int = 0
    window: tuple[int, ...] = ()

    def view(self, tensor: Tensor) -> Tensor:
        """``tensor`` as ``[M, C, *map]``: for all layouts but windows a view of it."""
        rank = len(self.map)
        if self.layout == "TNC":
            tensor = tensor.transpose(0, 1)
        if self.layout in ("NTC", "TNC"):
            tensor = tensor[:, self.prefix : self.prefix + math.prod(self.map)].unflatten(1, self.map)
        if self.layout == "windows":
            counts = [n // w for n, w in zip(self.map, self.window, strict=True)]
            tensor = tensor.reshape(-1, *counts, *self.window, tensor.shape[-1])
            order = [dim for i in range(rank) for dim in (1 + i, 1 + rank + i)]
            tensor = tensor.permute(0, *order, -1).reshape(-1, *self.map, tensor.shape[-1])
        if self.layout != "NC*":
            tensor = tensor.movedim(-1, 1)
        assert tuple(tensor.shape[2:]) == self.map, (self, tensor.shape)
        order = sorted(range(rank), key=lambda dim: self.along[dim])
        return tensor.permute(0, 1, *(2 + dim for dim in order))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The map's sizes in the order of the image's axes."""
        return tuple(self.map[dim] for dim in sorted(range(len(self.map)), key=lambda dim: self.along[dim]))

    def misread(self) -> dict[str, Axes]:
        """Readings of the same tensor that are wrong, by what a library that goes by sizes would say."""
        return {} if self.layout == "windows" else {name: replace(self, layout=name) for name in ("NC*", "N*C")}


@dataclass(frozen=True)
class Call:
    """One call of a module in one pass: the axes of what it returns, None where that has no map; the image it sees."""

    axes: Axes | None
    image: str = "x"
