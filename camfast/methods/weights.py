"""The weight rule behind each op, where it is wanted alone: for the first principal component instead of the sum.

A layer's heatmap is a sum over channels of weight times activation, and an op of :mod:`camfast.ops` computes both in one
go. A weight rule is the formula of the weights by itself. It sees the positions of a map in one last dimension S, so that
it serves sequences, pictures and volumes alike, and one target or K of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from ..model.precision import wide_dtype
from ..ops import reference
from ..ops.reference import PLUS_PLUS_EPS, XGRAD_EPS

__all__ = [
    "MapOp",
    "WeightRule",
    "as_op",
    "channel_terms",
    "eigen_of_absolute_product",
    "eigen_of_product",
    "eigen_smoothed",
    "own_gradient_plus_plus_weights",
    "plus_plus_weights",
    "weights_of",
    "xgrad_weights",
]

MapOp = Callable[..., Tensor]
"""An op ``(activations, gradients or weights, size, normalize) -> heatmap``."""

WeightRule = Callable[[Tensor, Tensor], Tensor]
"""``(A, G) -> W``: activations ``[N, C, S]`` and gradients ``[N, C, S]`` to weights ``[N, C]``, or ``[N, C, S]`` where each
position has its own. For K targets an image ``A`` is ``[N, 1, C, S]``, ``G`` is ``[N, K, C, S]``, and so on."""


def plus_plus_weights(A: Tensor, G: Tensor, eps: float = PLUS_PLUS_EPS) -> Tensor:
    """Of Grad-CAM++, ``[N, C]`` of ``[N, C, S]``."""
    g2, g3 = G * G, G * G * G
    alpha = torch.where(G != 0, g2 / (2 * g2 + A.sum(-1, keepdim=True) * g3 + eps), 0)
    return (reference.positive(G) * alpha).sum(-1)


def own_gradient_plus_plus_weights(A: Tensor, G: Tensor, eps: float) -> Tensor:
    """Of Grad-CAM++ as MONAI and Smooth Grad-CAM++ write it: each activation in the sum is weighed by its own gradient,
    ``a = g^2 / (2 g^2 + sum(A g^3) + eps)``, where the paper has ``sum(A) g^3``. ``[N, C]`` of ``[N, C, S]``."""
    g2 = G * G
    alpha = g2 / (2 * g2 + (A * g2 * G).sum(-1, keepdim=True) + eps)
    return (reference.positive(G) * alpha).sum(-1)


def xgrad_weights(A: Tensor, G: Tensor, eps: float = XGRAD_EPS) -> Tensor:
    """Of XGrad-CAM, ``[N, C]`` of ``[N, C, S]``."""
    return (G * A).sum(-1) / (A.sum(-1) + eps)


_WEIGHTS: dict[MapOp, WeightRule] = {
    ops.grad_cam: lambda A, G: G.mean(-1),
    ops.grad_cam_plus_plus: plus_plus_weights,
    ops.xgrad_cam: xgrad_weights,
    ops.hires_cam: lambda A, G: G,
    ops.layer_cam: lambda A, G: reference.positive(G),
    ops.grad_cam_elementwise: lambda A, G: torch.where(G * A > 0, G, 0),
}


def as_op(weights: WeightRule, name: str) -> MapOp:
    """An op made of a weight rule: its weights, then the fused channel sum.

    The op raises ``TypeError`` and ``ValueError`` where the rule gives something other than weights.
    """

    def op(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
        W = weights_of(op, activations, gradients)
        return (ops.hires_cam if W.ndim == gradients.ndim else ops.cam)(activations, W, size, normalize)

    op.__name__ = op.__qualname__ = name
    _WEIGHTS[op] = weights
    return op


def eigen_smoothed(op: MapOp, activations: Tensor, second: Tensor) -> Tensor | None:
    """Weights ``[N, (K,) C, *map]`` for :func:`eigen_of_product`, as a view where all positions share theirs.

    ``second`` is what ``op`` takes beside the activations. None where ``op`` does not sum weighted channels.
    """
    if op is not ops.cam and op not in _WEIGHTS:
        return None
    W = second if op is ops.cam else weights_of(op, activations, second)
    positions = activations.shape[2:]
    if W.ndim - (activations.ndim - 2) < 2:
        W = W[(...,) + (None,) * len(positions)].expand(*W.shape, *positions)
    return W


def channel_terms(op: MapOp, activations: Tensor, gradients: Tensor) -> Tensor:
    """What ``op`` sums over the channels, ``[N, (K,) C, *map]``: weight times activation."""
    W = weights_of(op, activations, gradients)
    A = activations if gradients.ndim == activations.ndim else activations.unsqueeze(1)
    return W[(...,) + (None,) * (gradients.ndim - W.ndim)] * A


def weights_of(op: MapOp, activations: Tensor, gradients: Tensor) -> Tensor:
    """What the weight rule of ``op`` gives: ``[N, (K,) C]`` or ``[N, (K,) C, *map]``, in fp32, or fp64 for fp64."""
    dtype = wide_dtype(activations, gradients)
    A, G = activations.to(dtype).flatten(2), gradients.to(dtype)
    many = G.ndim > activations.ndim
    G = G.flatten(2 + many)
    W = _WEIGHTS[op](A.unsqueeze(1) if many else A, G)
    if not isinstance(W, Tensor):
        raise TypeError(f"a weight rule must return a tensor, got {type(W).__name__} from {_name(op)}")
    if W.shape == G.shape:
        return W.unflatten(-1, activations.shape[2:])
    if W.shape != G.shape[:-1]:
        raise ValueError(
            f"a weight rule must return weights {list(G.shape[:-1])} or {list(G.shape)}, got {list(W.shape)} from "
            f"{_name(op)}"
        )
    return W


def _name(op: MapOp) -> str:
    return getattr(op, "__name__", type(op).__name__)


def eigen_of_product(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Eigen-CAM of gradient times activation. ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``."""
    return _weighted(activations, gradients, size, normalize)


def eigen_of_absolute_product(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Seg-Eigen-CAM: Eigen-CAM of absolute gradient times activation (Chung 2025, eq. 10 to 13).

    https://doi.org/10.3390/app15137562.
    ``gradients`` is ``[N, C, *map]`` or ``[N, K, C, *map]``.
    """
    return _weighted(activations, gradients.abs(), size, normalize)


def _weighted(activations: Tensor, gradients: Tensor, size, normalize: bool) -> Tensor:
    if not isinstance(gradients, Tensor) or gradients.ndim < activations.ndim:
        got = list(gradients.shape) if isinstance(gradients, Tensor) else type(gradients).__name__
        raise ValueError(f"gradients must have the shape of the activations {list(activations.shape)}, got {got}")
    if activations.dtype.itemsize < 4:  # products of halves may overflow
        activations, gradients = activations.float(), gradients.float()
    if gradients.ndim == activations.ndim:
        return ops.eigen_cam(activations * gradients, size, normalize)
    maps = ops.eigen_cam((activations.unsqueeze(1) * gradients).flatten(0, 1), size, normalize)
    return maps.unflatten(0, gradients.shape[:2])
