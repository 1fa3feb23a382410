"""Methods of principal components: one class each; and FEM, which like two of them looks at activations alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Inputs
from ..model.precision import wide_dtype
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers, Needs
from .gradient import GradientExplainer
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap
from .registry import register
from .weights import MapOp, eigen_of_absolute_product, eigen_of_product

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "FEM",
    "KPCACAM",
    "EigenCAM",
    "EigenGradCAM",
    "SegEigenCAM",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "fem_weights",
    "kpca_cam",
    "seg_eigen_cam",
]


class ActivationExplainer(LayerExplainer):
    """A method of activations alone: its map is the same for every target. A subclass makes a map of activations."""

    needs: ClassVar[Needs] = "activations"
    uses_gradients: ClassVar[bool] = False
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)
    repeats: ClassVar[tuple[str, ...]] = ("graph",)

    def map_of(self, activations: Tensor, size: Any, normalize: bool) -> Tensor:
        """``[N, *size]`` of activations ``[N, C, *map]``."""
        raise NotImplementedError

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        op = functools.partial(_for_each_target, self.map_of, chosen.per_image)
        return [LayerMap(op, A, A) for A in self.grids(tap, inputs)]


def _for_each_target(
    map_of: Callable[..., Tensor], targets: int | None, A: Tensor, _: Tensor, size: Any, normalize: bool
) -> Tensor:
    heatmap = map_of(A, size, normalize)
    return heatmap if targets is None else heatmap.unsqueeze(1).repeat_interleave(targets, 1)


class EigenCAM(ActivationExplainer):
    """Eigen-CAM: activations on their first principal component, whatever the target (Muhammad 2020, https://arxiv.org/abs/2008.00299).

    The sign of a component is arbitrary; the entry of largest magnitude is made positive.
    """

    name: ClassVar[str] = "eigen_cam"

    def map_of(self, activations: Tensor, size: Any, normalize: bool) -> Tensor:
        return ops.eigen_cam(activations, size, normalize)


eigen_cam = register(EigenCAM)


class EigenGradCAM(GradientExplainer):
    """Eigen-Grad-CAM: gradient times activation on its first principal component, so that it depends on the target."""

    name: ClassVar[str] = "eigen_grad_cam"
    derivative = False
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)
    op: ClassVar[MapOp] = staticmethod(eigen_of_product)


eigen_grad_cam = register(EigenGradCAM)


class SegEigenCAM(GradientExplainer):
    """Seg-Eigen-CAM: absolute gradient times activation on its first principal component (Chung 2025, https://doi.org/10.3390/app15137562)."""

    name: ClassVar[str] = "seg_eigen_cam"
    derivative = False
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)
    op: ClassVar[MapOp] = staticmethod(eigen_of_absolute_product)


seg_eigen_cam = register(SegEigenCAM)


class KPCACAM(ActivationExplainer):
    """KPCA-CAM: the first component of a sigmoid-kernel PCA of the activations (Karmani 2024, https://arxiv.org/abs/2410.00267).

    ``gamma`` scales the products in the kernel ``tanh(gamma * x.y + 1)``; None takes one over the number of channels.
    """

    name: ClassVar[str] = "kpca_cam"

    def __init__(
        self, model: nn.Module, layers: Layers = None, *, gamma: float | None = None, **options: Unpack[LayerOptions]
    ) -> None:
        if gamma is not None and not gamma > 0:
            raise ValueError(f"gamma must be positive or None, got {gamma!r}")
        super().__init__(model, layers, **options)
        self.gamma = gamma

    def map_of(self, activations: Tensor, size: Any, normalize: bool) -> Tensor:
        return ops.kpca_cam(activations, size, normalize, self.gamma)


kpca_cam = register(KPCACAM)


class FEM(ActivationExplainer):
    """FEM: a channel's weight is its share of positions above mean + k standard deviations (Fuad 2020, https://hal.science/hal-02963298).

    No target enters. ``k`` counts the standard deviations.
    """

    name: ClassVar[str] = "fem"
    derivative = True

    def __init__(
        self, model: nn.Module, layers: Layers = None, *, k: float = 2.0, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(model, layers, **options)
        self.k = float(k)

    def map_of(self, activations: Tensor, size: Any, normalize: bool) -> Tensor:
        return ops.cam(activations, fem_weights(activations, self.k), size, normalize)


fem = register(FEM)


def fem_weights(activations: Tensor, k: float) -> Tensor:
    """FEM's weights ``[N, C]`` of activations ``[N, C, *map]``."""
    dtype = wide_dtype(activations)
    flat = activations.to(dtype).flatten(2)
    deviation, mean = torch.std_mean(flat, 2, correction=0, keepdim=True)
    return (flat > mean + k * deviation).to(dtype).mean(2)
