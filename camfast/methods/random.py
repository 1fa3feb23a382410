"""Random weights: what a method must be better than."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Explainer, LayerMap, Needs
from .registry import register

__all__ = ["RandomCAM", "random_cam"]


class RandomCAM(Explainer):
    """Random-CAM: weights drawn uniformly from -1 to 1, a baseline that a method should beat.

    Drawn anew at each call from PyTorch's global generator of the CPU; with ``seed`` they are the same each time.
    """

    name: ClassVar[str] = "random_cam"
    needs: ClassVar[Needs] = "activations"
    uses_gradients: ClassVar[bool] = False

    def __init__(self, *args: Any, seed: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seed = seed

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        maps = []
        for name, A in zip(self.layers, tap.activations, strict=True):
            grid = self.to_grid(A, inputs, name)(A)
            shape = (grid.shape[0], *([] if chosen.per_image is None else [chosen.per_image]), grid.shape[1])
            weights = torch.rand(shape, generator=generator) * 2 - 1
            maps.append(LayerMap(ops.cam, grid, weights.to(grid.device)))
        return maps


random_cam = register(RandomCAM)
