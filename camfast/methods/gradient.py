"""Methods that weigh activations by gradients: one class each, one op each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .. import ops
from ..model.inputs import Images, Inputs
from ..model.tap import Tap
from ..targets import Targets
from . import linear_head
from .chosen import Chosen, choose, scores_for
from .explainer import Layers
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap, LayerMaps, SummedMap, joined
from .linear_head import Head, gradient_of_pooled, products, start_of
from .registry import register
from .weights import MapOp

if TYPE_CHECKING:
    from typing_extensions import Unpack

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

    op: ClassVar[MapOp]
    uniform: ClassVar[Literal["gradient", "positive gradient"] | None] = None
    """The channels' weights where a gradient is the same at every position; None where they are something else."""

    def __init__(self, model: nn.Module, layers: Layers = None, **options: Unpack[LayerOptions]) -> None:
        super().__init__(model, layers, **options)
        self._heads: dict[Any, Head | None] = {}  # by shape and dtype of the activations; None: no closed form

    def layer_maps(self, images: Images, targets: Targets = None) -> LayerMaps:
        inputs = self.prepare(images, targets)
        if self.uniform is None or not any(self._heads.values()) or not linear_head.asks_for_several(targets):
            return super().layer_maps(inputs, targets)  # type: ignore[arg-type]
        tap = self.tap()
        tap.graph = False
        with tap:
            output = self.run(tap, inputs)
            chosen = choose(
                targets, scores_for(targets, output, inputs.batch), self.class_names, output, self.classes(inputs)
            )
            key = _key(tap)
            layer = self._projected(tap.activations[0], chosen, self._heads.get(key))
        if layer is None:  # of a shape not met before, or the model has changed
            self._heads.pop(key, None)
            return super().layer_maps(inputs, targets)  # type: ignore[arg-type]
        return LayerMaps(inputs, chosen, [layer])

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        layers = list(zip(self.layers, tap.activations, strict=True))
        views = [self.to_grid(A, inputs, name) for name, A in layers]
        grids = [view(A) for view, (_, A) in zip(views, layers, strict=True)]
        targets = chosen.per_image
        if targets is None:
            origin = start_of(chosen)
            layer = self._pooled(tap, grids, *origin)
            if layer is not None:
                return [layer]
            found = tap.gradients(*origin)
            return [LayerMap(self.op, A, view(G)) for view, A, G in zip(views, grids, found, strict=True)]
        projected = self._projected(grids[0], chosen, self._head(tap, grids, chosen, inputs)) if targets > 1 else None
        if projected is not None:
            return [projected]
        at_once = max(1, _ELEMENTS // max(sum(A.numel() for A in grids), chosen.scores.numel()))
        parts: list[list[LayerMap]] = []
        for start in range(0, targets, at_once):
            part = chosen.part(start, start + at_once)
            found = tap.gradients(*start_of(part), keep=start + at_once < targets)
            own = [
                LayerMap(self.op, A, view(G).transpose(0, 1)) for view, A, G in zip(views, grids, found, strict=True)
            ]
            parts.append(own if at_once >= targets else [layer.summed(self.eigen_smooth) for layer in own])
        return parts[0] if len(parts) == 1 else [joined(of_layer) for of_layer in zip(*parts, strict=True)]

    def _pooled(
        self, tap: Tap, grids: list[Tensor], start: Tensor | GradientEdge, gradient: Tensor | None
    ) -> LayerMap | None:
        """The layer's map where only pooling lies between it and ``start``; else None."""
        if self.uniform is None or self.eigen_smooth or not isinstance(start, GradientEdge) or gradient is None:
            return None
        leaf, A = tap.leaf, grids[0]
        if leaf is None or A.shape != leaf.shape or A.stride() != leaf.stride() or A.data_ptr() != leaf.data_ptr():
            return None
        weights = gradient_of_pooled(leaf, start, gradient)
        if weights is None:
            return None
        gradients = weights[(...,) + (None,) * (A.ndim - 2)].expand(A.shape)
        return LayerMap(ops.cam, A, weights.clamp(min=0) if self.uniform == "positive gradient" else weights, gradients)

    def _head(self, tap: Tap, grids: list[Tensor], chosen: Chosen, inputs: Inputs) -> Head | None:
        """The linear head after the layer, looked for once for each shape; the tap holds a graph."""
        fits = self.uniform is not None and self.eval_mode and not self.eigen_smooth and self.reshape is None
        if not fits or len(grids) > 1 or grids[0].shape != tap.activations[0].shape:
            return None
        key = _key(tap)
        if key not in self._heads:
            self._heads[key] = linear_head.find(self.model, tap, grids[0], chosen)
        return self._heads[key]

    def _projected(self, A: Tensor, chosen: Chosen, head: Head | None) -> LayerMap | None:
        """The maps of ``chosen`` by ``head``; None where there is none or it does not give the scores."""
        if head is None or not isinstance(chosen.targets, Tensor) or chosen.targets.ndim != 2:
            return None
        rows = head.weights()
        if rows.shape != (chosen.scores.shape[-1], A.shape[1]):
            return None
        rows = rows if chosen.everything else rows[chosen.targets]
        maps = products(rows, A)
        if not linear_head.agrees(head, maps, chosen):
            return None
        if self.uniform == "positive gradient":
            maps = products(rows.clamp(min=0), A)
        return SummedMap.of(A, maps.div_(A.shape[2:].numel()))


def _key(tap: Tap) -> Any:
    (A,) = tap.activations
    return A.shape[1:], A.dtype


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
