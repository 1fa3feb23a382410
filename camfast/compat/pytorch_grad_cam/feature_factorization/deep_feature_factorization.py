"""Deep Feature Factorization, by camfast's non-negative matrix factorisation. Nothing here needs scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....methods.factorization import factors
from ....model.untouched import quiet
from ..activations_and_gradients import ActivationsAndGradients
from ..utils.image import create_labels_legend, scale_cam_image, show_factorization_on_image

__all__ = ["DeepFeatureFactorization", "dff", "run_dff_on_image"]


def dff(activations: np.ndarray, n_components: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Concepts ``[C, K]`` of activations ``[N, C, h, w]``, and where each is: ``[N, K, h, w]``."""
    concepts, places = factors(torch.from_numpy(np.ascontiguousarray(activations)), n_components)
    return concepts.t().numpy(), places.numpy()


class DeepFeatureFactorization:
    """The concepts of one layer, for all images of a call together.

    ``computation_on_concepts``, such as the model's last linear layer, is given the concepts as ``[K, C]``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.computation_on_concepts = computation_on_concepts
        self.activations_and_grads = ActivationsAndGradients(model, [target_layer], reshape_transform)

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> Any:
        """Concepts ``[C, K]`` and for each image its maps ``[K, H, W]``; with a computation, its result ``[K, ...]`` too."""
        batch, _, height, width = input_tensor.shape
        with quiet(self.model), torch.no_grad():
            self.activations_and_grads(input_tensor)
            concepts, places = dff(self.activations_and_grads.activations[0].float().numpy(), n_components)
            flat = scale_cam_image(places.reshape(-1, *places.shape[2:]), (width, height))
            maps = list(flat.reshape(batch, n_components, height, width))
            if self.computation_on_concepts is None:
                return concepts, maps
            found = self.computation_on_concepts(torch.from_numpy(concepts.T).to(input_tensor.device))
        return concepts, maps, found.cpu().numpy()

    def __del__(self) -> None:
        if "activations_and_grads" in self.__dict__:
            self.activations_and_grads.release()

    def __exit__(self, exc_type: Any, exc_value: Any, exc_tb: Any) -> bool | None:
        self.activations_and_grads.release()
        if isinstance(exc_value, IndexError):
            print(f"An exception occurred in CAM with block: {exc_type}. Message: {exc_value}")
            return True
        return None


def run_dff_on_image(
    model: nn.Module,
    target_layer: nn.Module,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Any,
    img_tensor: Tensor,
    reshape_transform: Callable[[Any], Tensor] | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> np.ndarray:
    """The photograph, its concepts in colours and their classes side by side: uint8 ``[H, 3 * W, 3]``.

    ``img_tensor`` ``[C, H, W]`` is the photograph as the model takes it. Classes are named by ``model.config.id2label``,
    as in Hugging Face's models, or by number. Needs OpenCV and matplotlib.
    """
    photo = np.asarray(img_pil)
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, outputs = factorization(img_tensor[None], n_components)
    probabilities = torch.from_numpy(outputs).softmax(-1).numpy()
    names = getattr(getattr(model, "config", None), "id2label", None)
    labels = create_labels_legend(probabilities, names or {k: str(k) for k in range(probabilities.shape[-1])}, top_k)
    picture = show_factorization_on_image(photo / 255, maps[0], image_weight=0.3, concept_labels=labels)
    return np.hstack((photo, picture))
