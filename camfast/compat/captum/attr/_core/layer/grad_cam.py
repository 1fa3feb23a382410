"""Grad-CAM of one layer, by captum's conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...... import ops
from ......methods.weights import channel_terms
from ......model.restored import thread_kept
from ..... import is_strict
from ....layer_pass import layer_pass
from ..._utils.attribution import GradientAttribution, LayerAttribution
from ..._utils.common import as_arguments, as_given, as_inputs, chosen_scores, wrapped

__all__ = ["LayerGradCam"]


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM (Selvaraju 2017): a layer's channels weighted by their mean gradient, summed."""

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func, layer, device_ids)

    @wrapped
    @thread_kept
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Signed maps at the layer's own resolution, ``[N, 1, *map]``; a tuple where the layer has several tensors.

        Args:
            inputs: what the model is called with, first dimension the samples. additional_forward_args: what follows
                them: one argument, or a tuple of several.
            target: indices into the output: an int or a tuple for all samples; a list of these or a tensor ``[N]``, one
                a sample; None where the output is one number a sample.
            attribute_to_layer_input: explain what the layer takes in.
            relu_attributions: cut off at 0. attr_dim_summation: False leaves the channels apart, ``[N, C, *map]``.
            grad_kwargs: further arguments of ``torch.autograd.grad``. With ``create_graph`` the graph reaches back to the
                inputs, and attributions can be differentiated; without it they carry no graph.
        """
        options = dict(grad_kwargs or {})
        whole = bool(options.get("create_graph")) or is_strict("captum")
        start = whole or attribute_to_layer_input  # whether the graph has to begin with the inputs
        with torch.inference_mode(False):
            arguments: list[Any] = [_ordinary(tensor, whole, start) for tensor in as_inputs(inputs)]
            for value in as_arguments(additional_forward_args):
                arguments.append(_ordinary(value, whole) if isinstance(value, Tensor) else value)
        model = self.forward_func if isinstance(self.forward_func, nn.Module) else None
        run = layer_pass(
            lambda: self.forward_func(*arguments), self.layer, model=model, inputs=attribute_to_layer_input, whole=whole
        )
        with run as (output, tensors):
            if not tensors:
                raise AssertionError("Forward hook did not obtain any outputs for given layer: it did not run")
            gradients = torch.autograd.grad(chosen_scores(output, target).sum(), tensors, **options)
            maps = [
                _map(A if whole else A.detach(), G, attr_dim_summation) for A, G in zip(tensors, gradients, strict=True)
            ]
            if relu_attributions:
                maps = [map.clamp(min=0) for map in maps]
        return as_given(maps, len(maps) > 1)


def _ordinary(tensor: Tensor, whole: bool, leaf: bool = False) -> Tensor:
    """An ordinary tensor, not of inference mode, without its graph, unless that is part of the ``whole``."""
    if tensor.is_inference():
        tensor = tensor.clone()
    if not (whole and tensor.requires_grad):
        tensor = tensor.detach()
        if leaf and tensor.is_floating_point():
            tensor.requires_grad_()
    return tensor


def _map(A: Tensor, G: Tensor, summed: bool) -> Tensor:
    """``[N, 1, *map]``, or ``[N, C, *map]`` where channels are not summed; a layer without positions weighs each by itself."""
    if A.ndim < 3:
        A, G = A.unsqueeze(-1), G.unsqueeze(-1)
        return _map(A, G, summed).squeeze(-1)
    if summed and A.ndim <= 5:
        return ops.grad_cam(A, G, None, normalize=False).unsqueeze(1).to(A.dtype)
    terms = channel_terms(ops.grad_cam, A, G).to(A.dtype)
    return terms.sum(1, keepdim=True) if summed else terms
