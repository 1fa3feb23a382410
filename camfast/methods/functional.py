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
from .composite import FinerCAM, RefineCAM
from .eigen import FEM, KPCACAM, EigenCAM, EigenGradCAM, SegEigenCAM
from .fullgrad import FullGrad
from .gradient import GradCAM, GradCAMElementWise, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from .guided import GuidedBackprop, GuidedGradCAM
from .masking import ISCAM, SSCAM, ScoreCAM
from .perturbation import AblationCAM, ReciproCAM
from .projection import CAM
from .smooth import RandomCAM, ShapleyCAM, SmoothGradCAMPlusPlus

__all__ = [
    "ablation_cam",
    "cam",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "finer_cam",
    "full_grad",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "random_cam",
    "recipro_cam",
    "refine_cam",
    "score_cam",
    "seg_eigen_cam",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
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
finer_cam = _function_of(FinerCAM)
refine_cam = _function_of(RefineCAM)
random_cam = _function_of(RandomCAM)
shapley_cam = _function_of(ShapleyCAM)
smooth_grad_cam_plus_plus = _function_of(SmoothGradCAMPlusPlus)
ablation_cam = _function_of(AblationCAM)
recipro_cam = _function_of(ReciproCAM)
is_cam = _function_of(ISCAM)
ss_cam = _function_of(SSCAM)
score_cam = _function_of(ScoreCAM)
full_grad = _function_of(FullGrad)
guided_backprop = _function_of(GuidedBackprop)
guided_grad_cam = _function_of(GuidedGradCAM)
