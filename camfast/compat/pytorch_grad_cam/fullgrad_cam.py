"""FullGrad, by camfast's engine; by the steps of ``BaseCAM`` where these are overridden, and with ``eigen_smooth``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ... import methods
from ...methods.fullgrad import bias_of, has_bias
from .base_cam import BaseCAM, in_order
from .utils.find_layers import find_layer_predicate_recursive
from .utils.image import scale_accross_batch_and_channels, scale_cam_image
from .utils.svd_on_activations import get_2d_projection

__all__ = ["FullGrad"]


class FullGrad(BaseCAM):
    """:class:`camfast.FullGrad` with pytorch-grad-cam's interface: all layers with a bias, whatever is asked for."""

    engine: ClassVar[type[methods.Explainer] | None] = methods.FullGrad

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if len(target_layers) > 0:
            print("Warning: FullGrad takes all layers that have a bias; target_layers is ignored")
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        layers = find_layer_predicate_recursive(model, lambda layer: type(layer) in kinds and layer.bias is not None)
        super().__init__(model, layers, reshape_transform, compute_input_gradient=True)
        self.bias_data = [self.get_bias_data(layer).cpu().numpy() for layer in layers]

    def get_bias_data(self, layer: nn.Module) -> Tensor:
        """``[C]``: a convolution's bias; for a batch norm what it adds to its scaled input."""
        return bias_of(layer).detach()

    def compute_cam_per_layer(self, input_tensor: Tensor, target_category: Any, eigen_smooth: bool) -> np.ndarray:
        """What the image and the biases contribute, each channel from 0 to 1, summed: ``[N, 1, H, W]``."""
        size = self.get_target_width_height(input_tensor)
        assert input_tensor.grad is not None
        image = (input_tensor.grad * input_tensor.detach()).abs().cpu().numpy()
        parts = [scale_accross_batch_and_channels(image, size)]
        _, gradients = in_order(self.activations_and_grads, self.target_layers)
        for bias, gradient in zip(self.bias_data, gradients, strict=True):
            product = np.abs(bias[None, :, None, None] * gradient.numpy())
            parts.append(scale_accross_batch_and_channels(product, size).sum(axis=1, keepdims=True))
        stacked = np.concatenate(parts, axis=1)
        if not eigen_smooth:
            return stacked.sum(axis=1, keepdims=True)
        small = scale_accross_batch_and_channels(stacked, (size[0] // 8, size[1] // 8))
        return scale_accross_batch_and_channels(get_2d_projection(small)[:, None], size)

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> np.ndarray:
        return scale_cam_image(cam_per_target_layer.sum(axis=1))

    def engine_explainer(self, layers: Sequence[nn.Module], eigen_smooth: bool = False) -> methods.Explainer:
        return methods.FullGrad(self.model)

    def engine_fits(self, eigen_smooth: bool) -> bool:
        theirs = {module for module in self.model.modules() if has_bias(module)}
        return not eigen_smooth and theirs == set(self.target_layers)
