"""Methods that need activations alone: their weights come from the model's own head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers, Needs
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap, SummedMap
from .linear_head import Head, candidates, gives_scores, products
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CAM", "cam"]


class CAM(LayerExplainer):
    """CAM: the class's row of the linear layer that follows global average pooling (Zhou 2016, https://arxiv.org/abs/1512.04150).

    The head is found by itself, and trusted only after its formula has reproduced the model's scores: a linear layer on
    pooled activations (ResNet, MobileNetV2, EfficientNet), with a ReLU before the pooling (DenseNet), or a convolution
    to class maps that are pooled (SqueezeNet; the map is the class's plane before bias and ReLU). No backward pass.

    Targets must be classes. Raises ``ValueError`` when the model has no such head after the layer.
    """

    name: ClassVar[str] = "cam"
    needs: ClassVar[Needs] = "activations"
    uses_gradients: ClassVar[bool] = False

    def __init__(self, model: nn.Module, layers: Layers = None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(model, layers, **options)
        self._heads: list[Head] = []

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        if not isinstance(chosen.targets, Tensor):
            raise TypeError("CAM explains classes, got target callables; use grad_cam for those")
        activations = self.grids(tap, inputs)
        if not self._heads:
            self._heads = [self._head(A, chosen.scores, name) for name, A in zip(self.layers, activations, strict=True)]
        maps: list[LayerMap] = []
        for head, A in zip(self._heads, activations, strict=True):
            A = head.activation(A)
            if chosen.everything and not self.eigen_smooth:
                maps.append(SummedMap.of(A, products(head.weights(), A)))
            else:
                maps.append(LayerMap(ops.cam, A, head.weights()[chosen.targets]))
        return maps

    def _head(self, activations: Tensor, scores: Tensor, name: str) -> Head:
        for head in candidates(self.model, activations, scores):
            if gives_scores(head.scores(activations), scores.float(), head.bias(), scores.dtype):
                return head
        raise ValueError(
            f"CAM needs a head of global average pooling and one linear layer after {name!r}, got scores of "
            f"{type(self.model).__name__} that no such head gives; use grad_cam, which needs none"
        )


cam = register(CAM)
