"""Methods that need activations alone: their weights come from the model's own head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers, Needs
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap, SummedMap
from .linear_head import products
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CAM", "cam"]


class Head(NamedTuple):
    """``scores = linear(mean(activation(A)))``, or ``mean(after(linear(A)))``."""

    layer: nn.Module
    activation: Callable[[Tensor], Tensor]
    after: Callable[[Tensor], Tensor] | None

    def weights(self, graph: bool = False) -> Tensor:
        """``[classes, C]``; with ``graph`` as a function of the parameter."""
        weight = self.layer.get_parameter("weight")
        if hasattr(weight, "full_tensor"):
            raise ValueError(
                "CAM reads the linear layer's weight after the pass, got one that fully sharded training has scattered by "
                "then; use GradCAM, whose map is the same there"
            )
        return (weight if graph else weight.detach()).flatten(1)

    def bias(self) -> Tensor:
        """``[classes]``, or zero."""
        bias = self.layer._parameters.get("bias")
        return torch.zeros((), device=self.weights().device) if bias is None else bias.detach().float()

    def scores(self, activations: Tensor) -> Tensor:
        """What the head would give, ``[N, classes]``, in fp32."""
        A = self.activation(activations).float().flatten(2)
        if self.after is None:
            return A.mean(2) @ self.weights().float().t() + self.bias()
        planes = self.weights().float() @ A + self.bias().reshape(-1, 1)
        return self.after(planes).mean(2)


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
    repeats: ClassVar[tuple[str, ...]] = ("graph",)
    derivative = True

    def __init__(self, model: nn.Module, layers: Layers = None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(model, layers, **options)
        self._heads: list[Head] = []

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        if not isinstance(chosen.targets, Tensor):
            raise TypeError("CAM explains classes, got target callables; use grad_cam for those")
        activations = self.grids(tap, inputs)
        if not self._heads or not {head.layer for head in self._heads} <= set(self.model.modules()):
            self._heads = [self._head(A, chosen.scores, name) for name, A in zip(self.layers, activations, strict=True)]
        maps: list[LayerMap] = []
        for head, A in zip(self._heads, activations, strict=True):
            A, weights = head.activation(A), head.weights(tap.keeps_graph)
            if chosen.everything and not self.eigen_smooth:
                maps.append(SummedMap.of(A, products(weights, A)))
            else:
                maps.append(LayerMap(ops.cam, A, weights[chosen.targets]))
        return maps

    def _head(self, activations: Tensor, scores: Tensor, name: str) -> Head:
        for head in _candidates(self.model, activations, scores):
            if _gives_scores(head.scores(activations), scores.float(), head.bias(), scores.dtype):
                return head
        raise ValueError(
            f"CAM needs a head of global average pooling and one linear layer after {name!r}, got scores of "
            f"{type(self.model).__name__} that no such head gives; use grad_cam, which needs none"
        )


cam = register(CAM)


def _candidates(model: nn.Module, activations: Tensor, scores: Tensor) -> Iterator[Head]:
    """Heads of the right shape, the last layer of the model first."""
    if scores.ndim != 2:
        return
    for layer in reversed(list(model.modules())):
        weight = layer._parameters.get("weight")
        if weight is None or weight.shape[:2] != (scores.shape[1], activations.shape[1]) or weight[0, 0].numel() != 1:
            continue
        yield Head(layer, _same, None)
        yield Head(layer, torch.relu, None)
        yield Head(layer, _same, torch.relu)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _gives_scores(found: Tensor, scores: Tensor, bias: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``found`` are the model's scores, up to rounding, measured by what the activations contribute to them."""
    share = 1e-2 if dtype in (torch.float32, torch.float64) else 1e-1  # fp32 may have been computed in TF32
    scale = (scores - bias).abs().nan_to_num(0, 0, 0).amax()
    return torch.allclose(found, scores, rtol=0, atol=share * float(scale), equal_nan=True)
