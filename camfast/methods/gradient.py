"""Methods that weigh activations by gradients: one class each, one op each."""

from __future__ import annotations

from typing import ClassVar

from .. import ops
from ..inputs import Inputs
from ..taps import Tap
from ..targets import Chosen
from .base import Explainer, LayerMap
from .registry import register
from .rules import Rule

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


class GradientExplainer(Explainer):
    """A method of activations and gradients; a subclass names the op that makes a map of them."""

    rule: ClassVar[Rule]

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        gradients = tap.gradients(*chosen.objective())
        maps = []
        for name, A, G in zip(self.layers, tap.activations, gradients, strict=True):
            view = self.to_grid(A, inputs, name)
            A, G = view(A), view(G)
            maps.append(LayerMap(self.rule, A, G if chosen.per_image is None else G.transpose(0, 1)))
        return maps


class GradCAM(GradientExplainer):
    """Grad-CAM: a channel's weight is the mean of its gradients (Selvaraju 2017, https://arxiv.org/abs/1610.02391)."""

    name = "grad_cam"
    rule = staticmethod(ops.grad_cam)


grad_cam = register(GradCAM)


class GradCAMPlusPlus(GradientExplainer):
    """Grad-CAM++: positive gradients, weighted by their higher powers (Chattopadhay 2018, https://arxiv.org/abs/1710.11063)."""

    name = "grad_cam_plus_plus"
    rule = staticmethod(ops.grad_cam_plus_plus)


grad_cam_plus_plus = register(GradCAMPlusPlus)


class XGradCAM(GradientExplainer):
    """XGrad-CAM: gradients weighted by their share of the activation (Fu 2020, https://arxiv.org/abs/2008.02312)."""

    name = "xgrad_cam"
    rule = staticmethod(ops.xgrad_cam)


xgrad_cam = register(XGradCAM)


class HiResCAM(GradientExplainer):
    """HiResCAM: gradient times activation at every position (Draelos 2020, https://arxiv.org/abs/2011.08891)."""

    name = "hires_cam"
    rule = staticmethod(ops.hires_cam)


hires_cam = register(HiResCAM)


class LayerCAM(GradientExplainer):
    """LayerCAM: positive gradient times activation at every position (Jiang 2021, https://ieeexplore.ieee.org/document/9462463)."""

    name = "layer_cam"
    rule = staticmethod(ops.layer_cam)


layer_cam = register(LayerCAM)


class GradCAMElementWise(GradientExplainer):
    """Element-wise Grad-CAM: the positive part of gradient times activation, summed over channels."""

    name = "grad_cam_elementwise"
    rule = staticmethod(ops.grad_cam_elementwise)


grad_cam_elementwise = register(GradCAMElementWise)
