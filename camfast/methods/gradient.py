"""Methods that weigh activations by gradients: one class each, one op each."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .layer_explainer import LayerExplainer
from .layer_map import LayerMap, SummedMap, joined
from .linear_head import is_pooled, last_linear, products, start_of
from .registry import register
from .weights import MapOp

__all__ = [
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "XGradCAM",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
]

_ELEMENTS = 2**25  # of gradients at once, 128 MB in fp32


class GradientExplainer(LayerExplainer):
    """A method of activations and gradients; a subclass names the op that makes a map of them.

    Several targets an image go through one batched backward pass; very many, through several, so that their gradients
    are never all in memory. Where the head is pooling and a linear layer, no backward pass runs for them at all (see
    :mod:`camfast.methods.linear_head`), if the subclass says by ``uniform`` what its weights are there.
    """

    derivative = True
    repeats: ClassVar[tuple[str, ...]] = ("graph", "compile")
    op: ClassVar[MapOp]
    uniform: ClassVar[Literal["gradient", "positive gradient"] | None] = None
    """The channels' weights where a gradient is the same at every position; None where they are something else."""

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        layers = list(zip(self.layers, tap.activations, strict=True))
        views = [self.to_grid(A, inputs, name) for name, A in layers]
        grids = [view(A) for view, (_, A) in zip(views, layers, strict=True)]
        known = self._without_autograd(tap, grids, chosen)
        if known is not None:
            return [known]
        targets = chosen.per_image
        if targets is None:
            found = tap.gradients(*start_of(chosen, tap.keeps_graph))
            return [LayerMap(self.op, A, view(G)) for view, A, G in zip(views, grids, found, strict=True)]
        at_once = max(1, _ELEMENTS // max(sum(A.numel() for A in grids), chosen.scores.numel()))
        parts: list[list[LayerMap]] = []
        for start in range(0, targets, at_once):
            part = chosen.part(start, start + at_once)
            found = tap.gradients(*start_of(part, tap.keeps_graph), keep=start + at_once < targets)
            own = [
                LayerMap(self.op, A, view(G).transpose(0, 1)) for view, A, G in zip(views, grids, found, strict=True)
            ]
            parts.append(own if at_once >= targets else [layer.summed(self.eigen_smooth) for layer in own])
        return parts[0] if len(parts) == 1 else [joined(of_layer) for of_layer in zip(*parts, strict=True)]

    def _without_autograd(self, tap: Tap, grids: list[Tensor], chosen: Chosen) -> LayerMap | None:
        """The layer's map where nothing but pooling and a linear layer follows it; else None."""
        if self.uniform is None or self.eigen_smooth or not isinstance(chosen.targets, Tensor):
            return None
        leaf, A = tap.leaf, grids[0]
        if leaf is None or A.shape != leaf.shape or A.stride() != leaf.stride() or A.data_ptr() != leaf.data_ptr():
            return None
        layer = last_linear(chosen.scores, tap.keeps_graph)
        if layer is None or not is_pooled(layer, leaf):
            return None
        rows, positions = layer.weight, A.shape[2:].numel()
        if chosen.per_image is None:
            weights = rows[chosen.targets] / positions
            gradients = weights[(...,) + (None,) * (A.ndim - 2)].expand(A.shape)
            weights = weights.relu() if self.uniform == "positive gradient" else weights
            return LayerMap(ops.cam, A, weights, gradients)
        rows = rows.relu() if self.uniform == "positive gradient" else rows
        rows = rows if chosen.everything and chosen.per_image == len(rows) else rows[chosen.targets]
        return SummedMap.of(A, products(rows, A).div_(positions))


class GradCAM(GradientExplainer):
    """Grad-CAM: a channel's weight is the mean of its gradients (Selvaraju 2017, https://arxiv.org/abs/1610.02391)."""

    name = "grad_cam"
    op = staticmethod(ops.grad_cam)
    uniform = "gradient"


grad_cam = register(GradCAM)


class GradCAMPlusPlus(GradientExplainer):
    """Grad-CAM++: positive gradients, weighted by their higher powers (Chattopadhay 2018, https://arxiv.org/abs/1710.11063)."""

    name = "grad_cam_plus_plus"
    op = staticmethod(ops.grad_cam_plus_plus)


grad_cam_plus_plus = register(GradCAMPlusPlus)


class XGradCAM(GradientExplainer):
    """XGrad-CAM: gradients weighted by their share of the activation (Fu 2020, https://arxiv.org/abs/2008.02312)."""

    name = "xgrad_cam"
    op = staticmethod(ops.xgrad_cam)


xgrad_cam = register(XGradCAM)


class HiResCAM(GradientExplainer):
    """HiResCAM: gradient times activation at every position (Draelos 2020, https://arxiv.org/abs/2011.08891)."""

    name = "hires_cam"
    op = staticmethod(ops.hires_cam)
    uniform = "gradient"


hires_cam = register(HiResCAM)


class LayerCAM(GradientExplainer):
    """LayerCAM: positive gradient times activation at every position (Jiang 2021, https://ieeexplore.ieee.org/document/9462463)."""

    name = "layer_cam"
    op = staticmethod(ops.layer_cam)
    uniform = "positive gradient"


layer_cam = register(LayerCAM)


class GradCAMElementWise(GradientExplainer):
    """Element-wise Grad-CAM: the positive part of gradient times activation, summed over channels."""

    name = "grad_cam_elementwise"
    op = staticmethod(ops.grad_cam_elementwise)


grad_cam_elementwise = register(GradCAMElementWise)
