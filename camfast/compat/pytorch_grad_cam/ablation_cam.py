"""AblationCAM, by camfast's engine, or through an ablation layer where it has one of another kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import methods
from ...methods.scoring import progress_bar
from ...model.restored import Restored
from ...model.untouched import quiet
from .ablation_layer import AblationLayer, AblationLayerVit
from .base_cam import BaseCAM
from .utils.find_layers import replace_layer_recursive

__all__ = ["AblationCAM"]


class AblationCAM(BaseCAM):
    """:class:`camfast.AblationCAM` with pytorch-grad-cam's interface.

    The engine runs the head alone, for ``AblationLayer`` and ``AblationLayerVit`` and all channels. An ablation layer of
    another kind, or a ratio below 1, takes the layer's place in whole passes; the model is put right again also after
    an exception.
    """

    engine: ClassVar[type[methods.Explainer] | None] = methods.AblationCAM

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        ablation_layer: nn.Module = AblationLayer(),  # noqa: B008 (the original's default, which scripts may compare)
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.batch_size = batch_size
        self.ablation_layer = ablation_layer
        self.ratio_channels_to_ablate = ratio_channels_to_ablate

    def save_activation(self, module: Any, input: Any, output: Any) -> None:
        """Notes the layer's raw output."""
        self.activations = output

    def assemble_ablation_scores(
        self, new_scores: Any, original_score: Any, ablated_channels: np.ndarray, number_of_channels: int
    ) -> Any:
        """The scores of all channels, in order; channels that were not ablated have the original one."""
        scores = np.full(number_of_channels, original_score, np.float32)
        scores[ablated_channels] = np.asarray(new_scores, np.float32)
        return list(scores)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, targets: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        with quiet(self.model), torch.no_grad():
            with Restored() as restored:
                restored.hook(target_layer, self.save_activation)
                outputs = self.model(input_tensor)
            original = np.array(
                [float(target(output)) for target, output in zip(targets, outputs, strict=False)], np.float32
            )
            with (
                _in_place_of(self.model, target_layer, self.ablation_layer),
                progress_bar(activations.shape[0] * activations.shape[1], True, "ablation_cam") as bar,
            ):
                rows = [
                    self._ablated_scores(i, input_tensor[i], target, activations[i], original[i], bar)
                    for i, target in enumerate(targets)
                ]
        ablated = np.array(rows, np.float32)
        return (original[:, None] - ablated) / original[:, None]

    def _ablated_scores(self, index: int, image: Tensor, target: Any, activations: Any, original: Any, bar: Any) -> Any:
        layer: Any = self.ablation_layer
        channels = layer.activations_to_be_ablated(activations, self.ratio_channels_to_ablate)
        scores: list[float] = []
        while len(scores) < len(channels):
            count = min(self.batch_size, len(channels) - len(scores))
            layer.set_next_batch(input_batch_index=index, activations=self.activations, num_channels_to_ablate=count)
            scores += [float(target(output)) for output in self.model(image.repeat(count, *(1,) * image.ndim))]
            layer.indices = layer.indices[count:]
            bar.update(count)
        return self.assemble_ablation_scores(scores, original, channels, activations.shape[0])

    def engine_options(self) -> dict[str, Any]:
        of_tokens = type(self.ablation_layer) is AblationLayerVit
        return {"batch_size": self.batch_size, "all_tokens": of_tokens, "progress": True}

    def engine_fits(self, eigen_smooth: bool) -> bool:
        usual = type(self.ablation_layer) in (AblationLayer, AblationLayerVit) and self.ratio_channels_to_ablate == 1.0
        return usual and type(self).assemble_ablation_scores is AblationCAM.assemble_ablation_scores


@contextlib.contextmanager
def _in_place_of(model: nn.Module, layer: nn.Module, other: nn.Module) -> Iterator[None]:
    with Restored() as restored:
        restored.back(lambda: replace_layer_recursive(model, other, layer))
        replace_layer_recursive(model, layer, other)
        yield
