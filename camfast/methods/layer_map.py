"""The map of one layer before it has a size, and what one call found of all its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..brief import Brief
from ..model.inputs import Inputs
from .chosen import Chosen
from .weights import MapOp, eigen_of_product, eigen_smoothed

__all__ = ["LayerMap", "LayerMaps", "SummedMap", "joined"]


@dataclass(repr=False)
class LayerMap(Brief):
    """The map of one layer, before it is computed: an op of :mod:`camfast.ops` and its first two arguments."""

    op: MapOp
    activations: Tensor  # [N, C, *map]
    weights: Tensor  # gradients [N, (K,) C, *map], or weights [N, (K,) C]
    gradients: Tensor | None = None  # [N, C, *map], where they are known and not the weights

    @property
    def size(self) -> tuple[int, ...]:
        """The layer's own resolution."""
        return tuple(self.activations.shape[2:])

    def __call__(self, size: int | Sequence[int] | None, normalize: bool) -> Tensor:
        """``[N, (K,) *size]``."""
        return self.op(self.activations, self.weights, size, normalize)

    def eigen_smoothed(self) -> LayerMap:
        """The same with the first principal component of weight times activation in place of their sum."""
        W = eigen_smoothed(self.op, self.activations, self.weights)
        if W is None:
            raise ValueError("eigen_smooth=True needs a method that sums weighted channels, got a map of another kind")
        return LayerMap(eigen_of_product, self.activations, W)

    def summed(self, eigen_smooth: bool = False) -> SummedMap:
        """The map computed at the layer's own resolution, so that gradients need not be kept."""
        layer = self.eigen_smoothed() if eigen_smooth else self
        return SummedMap.of(self.activations, layer(None, normalize=False))


class SummedMap(LayerMap):
    """A layer's map that is computed: raw values ``[N, (K,) *map]`` at the layer's own resolution."""

    @classmethod
    def of(cls, activations: Tensor, maps: Tensor) -> SummedMap:
        """``activations`` ``[N, C, *map]`` tell which dimensions are the map's; the image itself for maps of its size."""
        return cls(_resized, activations, maps)

    def eigen_smoothed(self) -> SummedMap:
        """Itself: there are no channels left to smooth."""
        return self


def _resized(activations: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    own = tuple(activations.shape[2:])
    return ops.resize_normalize(maps, own if size is None else size, normalize, relu=normalize)


def joined(parts: Sequence[LayerMap]) -> SummedMap:
    """One map of parts that hold some of the targets each."""
    return SummedMap.of(parts[0].activations, torch.cat([part.weights for part in parts], 1))


@dataclass(repr=False)
class LayerMaps(Brief):
    """What one call found, before its maps become one heatmap.

    Attributes:
        inputs: what the model was called with.
        chosen: what is explained; in it the scores, and all that the model returned (:attr:`output`).
        maps: the map of each layer, in the order of the explainer's ``layers``.
        scores: with their graph, where the call is differentiable; else None.
        returned: what the model's wrapper returned, where the call is differentiable.
    """

    inputs: Inputs
    chosen: Chosen
    maps: list[LayerMap]
    scores: Tensor | None = None
    returned: Any = None

    @property
    def rows(self) -> int:
        """How many maps there are: one per image, frame or instance."""
        return self.maps[0].activations.shape[0]

    @property
    def instances(self) -> int | None:
        """How many maps each image has, where it is a bag of instances; else None."""
        image = self.inputs.image
        folded = image.ndim > len(self.maps[0].size) + 2 and self.rows == image.shape[0] * image.shape[1]
        return image.shape[1] if folded else None

    @property
    def shared(self) -> int:
        """How many maps belong to one row of scores: 1, or the frames of a clip, the instances of a bag."""
        scores = self.chosen.scores
        return max(1, self.rows // scores.shape[0]) if scores.ndim and self.rows % scores.shape[0] == 0 else 1

    @property
    def output(self) -> Any:
        """All that the model returned; with a graph to its parameters, where the call is differentiable."""
        return self.chosen.output if self.scores is None else self.returned
