"""The methods as functions of one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from ..explanation import Explanation
from ..inputs import Images
from ..layers import Layer
from ..targets import Targets
from .base import Explainer
from .eigen import FEM, EigenCAM, EigenGradCAM, KPCACAM, SegEigenCAM
from .gradient import GradCAM, GradCAMElementWise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .projection import CAM

__all__ = [
    "cam",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "kpca_cam",
    "layer_cam",
    "seg_eigen_cam",
    "xgrad_cam",
]


class Method(Protocol):
    """A method as a function."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        targets: Targets = None,
        layers: Layer | Sequence[Layer] | None = None,
        **options: Any,
    ) -> Explanation: ...


def _function_of(cls: type[Explainer]) -> Method:
    def explain(
        model: nn.Module,
        images: Images,
        targets: Targets = None,
        layers: Layer | Sequence[Layer] | None = None,
        **options: Any,
    ) -> Explanation:
        call = {name: options.pop(name) for name in ("size", "normalize") if name in options}
        return cls(model, layers, **options)(images, targets, **call)

    explain.__name__ = explain.__qualname__ = cls.name
    explain.__doc__ = f"""{(cls.__doc__ or "").splitlines()[0]}

    ``model``, ``images``, ``targets`` and ``layers`` are those of :class:`camfast.{cls.__name__}`; its options and
    those of its call may follow: ``reshape``, ``eval_mode``, ``class_names``, ``fuse``, ``size``, ``normalize``. For
    many calls on one model, make an explainer of the class and keep it.
    """
    return explain


cam = _function_of(CAM)
grad_cam = _function_of(GradCAM)
grad_cam_plus_plus = _function_of(GradCAMPlusPlus)
xgrad_cam = _function_of(XGradCAM)
hires_cam = _function_of(HiResCAM)
layer_cam = _function_of(LayerCAM)
grad_cam_elementwise = _function_of(GradCAMElementWise)
eigen_cam = _function_of(EigenCAM)
eigen_grad_cam = _function_of(EigenGradCAM)
seg_eigen_cam = _function_of(SegEigenCAM)
kpca_cam = _function_of(KPCACAM)
fem = _function_of(FEM)
