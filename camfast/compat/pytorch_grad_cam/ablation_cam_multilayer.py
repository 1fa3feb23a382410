"""An earlier Ablation-CAM of the original, which its ``BaseCAM`` can no longer call. Here it is AblationCAM.

Its ablation layer returns what the layer it wraps gives, one channel of each copy gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import ablation_cam
from .utils.find_layers import replace_layer_recursive

__all__ = ["AblationCAM", "AblationLayer", "replace_layer_recursive"]


class AblationLayer(nn.Module):
    """``layer`` with channel ``indices[i]`` of the ``i``-th image put at 0, or far below all others."""

    def __init__(self, layer: nn.Module, reshape_transform: Callable[[Any], Tensor] | None, indices: Any) -> None:
        super().__init__()
        self.layer = layer
        self.reshape_transform = reshape_transform
        self.indices = indices

    def forward(self, x: Any) -> Any:
        return self(x)

    def __call__(self, x: Any) -> Any:
        output = self.layer(x).clone()
        view = output if self.reshape_transform is None else self.reshape_transform(output)
        ablated = ablation_cam.AblationLayer()
        ablated.activations, ablated.indices = view, np.asarray(self.indices)
        ablated(x)
        return output


class AblationCAM(ablation_cam.AblationCAM):
    """:class:`~camfast.compat.pytorch_grad_cam.ablation_cam.AblationCAM` of each layer."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def set_ablation_layers(self) -> None:
        """Puts an ablation layer in place of each target layer; :meth:`unset_ablation_layers` takes them out."""
        self.ablation_layers = []
        for layer in self.target_layers:
            self.ablation_layers.append(AblationLayer(layer, self.reshape_transform, []))
            replace_layer_recursive(self.model, layer, self.ablation_layers[-1])

    def unset_ablation_layers(self) -> None:
        """Puts the target layers back."""
        for own in self.ablation_layers:
            replace_layer_recursive(self.model, own, own.layer)

    def set_ablation_layer_batch_indices(self, indices: Any) -> None:
        """The channels of the next images, for every ablation layer."""
        for own in self.ablation_layers:
            own.indices = indices

    def trim_ablation_layer_batch_indices(self, keep: int) -> None:
        """Keeps the first ``keep`` of them."""
        for own in self.ablation_layers:
            own.indices = own.indices[:keep]

    def get_cam_weights(  # type: ignore[override]
        self, input_tensor: Tensor, target_category: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        """Weights for the classes ``target_category``, the layers' side by side: ``[N, C]``."""
        targets = [int(category) for category in target_category]
        return np.concatenate([self.engine_weights(input_tensor, layer, targets) for layer in self.target_layers], 1)

    def forward(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False) -> np.ndarray:
        """In every mode by the engine: the original has no number to follow."""
        return self._by_engine(input_tensor.to(self.device), targets, eigen_smooth)
