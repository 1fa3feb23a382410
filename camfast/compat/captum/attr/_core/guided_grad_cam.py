"""Guided Grad-CAM by captum's conventions: guided backpropagation times the layer's map."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .....model.restored import thread_kept
from .._utils.attribution import GradientAttribution, LayerAttribution
from .._utils.common import as_given, as_inputs, wrapped
from .guided_backprop_deconvnet import GuidedBackprop
from .layer.grad_cam import LayerGradCam

__all__ = ["GuidedGradCam"]


class GuidedGradCam(GradientAttribution):
    """Guided Grad-CAM (Selvaraju 2017, section 3.2).

    Args:
        layer: whose map it is, mostly the last convolution. device_ids: taken as captum takes it.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(model)
        self.guided_backprop = GuidedBackprop(model)
        self.grad_cam = LayerGradCam(model, layer, device_ids)

    @wrapped
    @thread_kept
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attributions in the shapes of ``inputs``; arguments as in :meth:`LayerGradCam.attribute`.

        ``interpolate_mode`` is how the map, cut off at 0, is resized to each input. Where it cannot be, a warning is
        given and that input's attribution is empty.
        """
        heat = self.grad_cam.attribute(inputs, target, additional_forward_args, attribute_to_layer_input, True)
        if isinstance(heat, tuple):
            raise AssertionError(
                "GuidedGradCam attributions for a layer with multiple inputs or outputs are not supported, "
                f"got {len(heat)} tensors"
            )
        guided = self.guided_backprop.attribute(as_inputs(inputs), target, additional_forward_args)
        found = []
        for gradient in guided:
            try:
                large = LayerAttribution.interpolate(heat, tuple(gradient.shape[2:]), interpolate_mode)
            except (ValueError, RuntimeError, NotImplementedError, IndexError) as error:
                warnings.warn(
                    f"Couldn't interpolate the map to an input of shape {list(gradient.shape)}, "
                    f"whose attribution is empty: {error}",
                    stacklevel=2,
                )
                found.append(torch.empty(0))
            else:
                found.append(gradient * large)
        return as_given(found, isinstance(inputs, tuple))
