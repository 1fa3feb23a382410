"""Weights of second order: Shapley values of the channels, estimated."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import ops
from ..model.inputs import Inputs
from ..model.precision import wide
from ..model.tap import Tap
from .chosen import Chosen
from .layer_explainer import LayerExplainer
from .layer_map import LayerMap
from .registry import register

__all__ = ["ShapleyCAM", "shapley_cam"]


class ShapleyCAM(LayerExplainer):
    """Shapley-CAM: a channel's weight is the mean of gradient minus half the Hessian times the activations (Cai 2025, https://arxiv.org/abs/2501.06261).

    The second derivative goes through the layers after the first one explained, never through the trunk. For a head
    that is linear in the activations it is zero, and the map that of Grad-CAM.
    """

    name: ClassVar[str] = "shapley_cam"
    repeats: ClassVar[tuple[str, ...]] = ("graph",)
    derivative = True

    def run(self, tap: Tap, inputs: Inputs) -> Any:
        """The pass, by attention that can be differentiated twice: the fused kernels cannot."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().run(tap, inputs)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        views = [self.to_grid(A, inputs, name) for name, A in zip(self.layers, tap.activations, strict=True)]
        each = [chosen] if chosen.per_image is None else [chosen.column(k) for k in range(chosen.per_image)]
        rows = []
        for own in each:
            found = _corrected_gradients(tap, *own.objective())
            rows.append([wide(view(g)).flatten(2).mean(2) for view, g in zip(views, found, strict=True)])
        columns = zip(*rows, strict=True)
        weights = [of_layer[0] if chosen.per_image is None else torch.stack(of_layer, 1) for of_layer in columns]
        return [LayerMap(ops.cam, view(A), w) for view, A, w in zip(views, tap.activations, weights, strict=True)]


shapley_cam = register(ShapleyCAM)


def _corrected_gradients(tap: Tap, outputs: Tensor, seed: Tensor | None) -> list[Tensor]:
    """For each layer ``gradient - 0.5 * Hessian @ activations``, in its own layout; with a graph where the tap keeps one."""
    with torch.enable_grad():
        score = outputs if seed is None else (outputs * seed).sum()
        gradients = torch.autograd.grad(score, tap.captured, create_graph=True, allow_unused=True)
        corrected = []
        for name, start, gradient in zip(tap.names, tap.captured, gradients, strict=True):
            if gradient is None:
                raise ValueError(f"the scores must depend on every layer, got no gradient for {name!r}")
            product = None
            if gradient.requires_grad:
                along = start if tap.keeps_graph else start.detach()
                (product,) = torch.autograd.grad(
                    gradient, start, along, retain_graph=True, create_graph=tap.keeps_graph, allow_unused=True
                )
            found = gradient if product is None else gradient - 0.5 * product
            corrected.append(found if tap.keeps_graph else found.detach())
    return corrected
