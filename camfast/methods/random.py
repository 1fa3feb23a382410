"""Random weights: what a method must be better than."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers, Needs
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RandomCAM", "random_cam"]


class RandomCAM(LayerExplainer):
    """Random-CAM: weights drawn uniformly from -1 to 1, a baseline that a method should beat.

    Drawn anew at each call from PyTorch's global generator of the CPU; with ``seed`` they are the same each time.
    """

    name: ClassVar[str] = "random_cam"
    needs: ClassVar[Needs] = "activations"
    uses_gradients: ClassVar[bool] = False
    derivative = True

    def __init__(
        self, model: nn.Module, layers: Layers = None, *, seed: int | None = None, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(model, layers, **options)
        self.seed = seed

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        maps = []
        for grid in self.grids(tap, inputs):
            shape = (grid.shape[0], *([] if chosen.per_image is None else [chosen.per_image]), grid.shape[1])
            weights = torch.rand(shape, generator=generator) * 2 - 1
            maps.append(LayerMap(ops.cam, grid, weights.to(grid.device)))
        return maps


random_cam = register(RandomCAM)
