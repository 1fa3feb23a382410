"""Which methods a file can hold, what kind of pass each needs, and why the others cannot be shipped."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from .. import ops
from ..errors import closest, or_rather
from ..methods import METHODS
from ..methods.eigen import ActivationExplainer
from ..methods.explainer import Explainer
from .formulas import mean_map

__all__ = ["MEAN", "SHIPPED", "Kind", "explainer_class", "kind_of_method"]

Kind = Literal["weights", "gradients", "activations", "positions"]

MEAN = "activation_mean"

SHIPPED: dict[str, Kind] = {
    "cam": "weights",
    "grad_cam": "gradients",
    "grad_cam_plus_plus": "gradients",
    "hires_cam": "gradients",
    "layer_cam": "gradients",
    "xgrad_cam": "gradients",
    "grad_cam_elementwise": "gradients",
    "recipro_cam": "positions",
    "eigen_cam": "activations",
    "fem": "activations",
    MEAN: "activations",
}
"""The methods that can be shipped, and what a file holds beside the network."""

_MANY_PASSES = "runs the whole network once for each of many changed images"
_WHOLE = "takes a backward pass through the whole network"
_REASONS = {
    "random_cam": "draws random weights at every call",
    "smooth_grad_cam_plus_plus": "draws noise at every call",
    "ss_cam": "draws random masks at every call",
    "is_cam": _MANY_PASSES,
    "score_cam": _MANY_PASSES,
    "sess": _MANY_PASSES,
    "ablation_cam": "runs the head once for every channel",
    "full_grad": _WHOLE,
    "guided_backprop": _WHOLE,
    "guided_grad_cam": _WHOLE,
    "kpca_cam": "needs eigenvectors, which runtimes do not compute",
    "deep_feature_factorization": "fits its concepts to the images of each call",
    "shapley_cam": "takes a second derivative",
}


class _ActivationMean(ActivationExplainer):
    """The mean of a layer's channels: how active it is, whatever the class."""

    name: ClassVar[str] = MEAN

    def map_of(self, activations: Tensor, size: Any, normalize: bool) -> Tensor:
        own = tuple(activations.shape[2:])
        return ops.resize_normalize(mean_map(activations), own if size is None else size, normalize, relu=normalize)


def kind_of_method(method: str) -> Kind:
    """What a file with ``method`` holds.

    Raises:
        TypeError: for what is no name.
        ValueError: for a method that there is not, or that cannot be shipped: why.
    """
    if not isinstance(method, str):
        raise TypeError(f"method must be a name such as 'grad_cam', got {type(method).__name__}")
    if method in SHIPPED:
        return SHIPPED[method]
    can = ", ".join(SHIPPED)
    if method not in METHODS:
        known = [*SHIPPED, *METHODS]
        raise ValueError(
            f"expected a method that can be shipped, got {method!r}{or_rather(closest(method, known), SHIPPED)}"
        )
    why = _REASONS.get(method, "is made of other methods' maps or of a network's own parts")
    raise ValueError(f"{method} cannot be shipped: it {why}; these can: {can}")


def explainer_class(method: str) -> type[Explainer]:
    """The class of explainers that a file with ``method`` must agree with."""
    return _ActivationMean if method == MEAN else METHODS[method]
