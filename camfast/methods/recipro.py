"""Recipro-CAM: the head alone scores what is left where one position is kept."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers
from .layer_map import LayerMap, SummedMap
from .registry import register
from .scoring import HeadExplainer, ScoringOptions, batch_fitting, progress_bar

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ReciproCAM", "recipro_cam"]


class ReciproCAM(HeadExplainer):
    """Recipro-CAM: the class's probability when the head sees one position alone (Byun 2022, https://arxiv.org/abs/2209.14074).

    For each position of the map, activations are kept around it by a Gaussian of 3 positions a side (1/2 at the centre
    and 1/4 beside it, along each dimension) and are zero elsewhere; with ``gaussian=False`` that position alone stays.
    The map holds the softmax probability of the target there, of a class in a field of the output too; other callable
    targets are given the scores themselves. Extra tokens of a transformer stay as they are.
    """

    name: ClassVar[str] = "recipro_cam"
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)

    def __init__(
        self, model: nn.Module, layers: Layers = None, *, gaussian: bool = True, **options: Unpack[ScoringOptions]
    ) -> None:
        super().__init__(model, layers, **options)
        self.gaussian = gaussian

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps: list[LayerMap] = []
        for layer, grid in enumerate(self.grids(tap, inputs)):
            masks = _spots(grid.shape[2:], self.gaussian).to(grid)
            with progress_bar(len(masks) * inputs.batch, self.progress, self.name) as bar:
                found = [self._map(i, layer, masks, chosen, inputs, bar) for i in range(inputs.batch)]
            maps.append(SummedMap.of(grid, torch.stack(found)))
        return maps

    def _map(self, index: int, layer: int, masks: Tensor, chosen: Chosen, inputs: Inputs, bar: Any) -> Tensor:
        """``[*map]``, or ``[K, *map]`` for K targets, of one image."""
        replay, view = self.replay(index, layer, inputs)
        grid = view(replay.activations)
        chosen = chosen.of_probabilities()
        found = []
        for part in masks.split(self.batch_size or batch_fitting(grid)):
            copies = replay.repeated(len(part))
            view(copies).mul_(part.unsqueeze(1))
            output = replay.output(copies)
            found.append(chosen.values(index, chosen.softmax(output, len(part)), len(part)))
            bar.update(len(part))
        return torch.cat(found).movedim(0, -1).unflatten(-1, grid.shape[2:])


recipro_cam = register(ReciproCAM)


def _spots(size: torch.Size, gaussian: bool) -> Tensor:
    """``[S, *size]``: for each position a mask around it."""
    sides = []
    for n in size:
        side = torch.eye(n)
        if gaussian:
            side = side / 2 + torch.diag(torch.full((n - 1,), 0.25), 1) + torch.diag(torch.full((n - 1,), 0.25), -1)
        sides.append(side)
    masks = [
        math.prod(
            side[place].reshape(-1, *(1,) * (len(size) - 1 - dim))
            for dim, (side, place) in enumerate(zip(sides, places, strict=True))
        )
        for places in itertools.product(*map(range, size))
    ]
    return torch.stack(masks)  # type: ignore[arg-type]
