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

    def tap(self) -> Tap:
        return _SecondOrderTap(
            self.model, self._modules, names=self._names, eval_mode=self.eval_mode, quirks=self._quirks
        )

    def run(self, tap: Tap, inputs: Inputs) -> Any:
        """The pass, by attention that can be differentiated twice: the fused kernels cannot."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().run(tap, inputs)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        assert isinstance(tap, _SecondOrderTap)
        views = [self.to_grid(A, inputs, name) for name, A in zip(self.layers, tap.activations, strict=True)]
        each = [chosen] if chosen.per_image is None else [chosen.column(k) for k in range(chosen.per_image)]
        rows = []
        for k, own in enumerate(each):
            found = tap.corrected_gradients(*own.objective(), keep=k < len(each) - 1)
            rows.append([wide(view(g)).flatten(2).mean(2) for view, g in zip(views, found, strict=True)])
        columns = zip(*rows, strict=True)
        weights = [of_layer[0] if chosen.per_image is None else torch.stack(of_layer, 1) for of_layer in columns]
        return [LayerMap(ops.cam, view(A), w) for view, A, w in zip(views, tap.activations, weights, strict=True)]


shapley_cam = register(ShapleyCAM)


class _SecondOrderTap(Tap):
    """A tap that differentiates twice."""

    def corrected_gradients(self, outputs: Tensor, seed: Tensor | None, keep: bool = False) -> list[Tensor]:
        """For each layer ``gradient - 0.5 * Hessian @ activations``, in its own layout."""
        leaves = self.captured
        with torch.enable_grad():
            score = outputs if seed is None else (outputs * seed).sum()
            gradients = torch.autograd.grad(score, leaves, create_graph=True, allow_unused=True)
            corrected = []
            for name, leaf, gradient in zip(self.names, leaves, gradients, strict=True):
                if gradient is None:
                    raise ValueError(f"the scores must depend on every layer, got no gradient for {name!r}")
                product = None
                if gradient.requires_grad:
                    (product,) = torch.autograd.grad(
                        gradient, leaf, leaf.detach(), retain_graph=True, allow_unused=True
                    )
                corrected.append((gradient if product is None else gradient - 0.5 * product).detach())
        return corrected
