"""Weighted channel sums as heatmaps, one launch each: CAM with given weights, and the rules that weigh by gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference
from .arguments import Size, check_floating, full_size
from .reference import PLUS_PLUS_EPS, XGRAD_EPS
from .registration import call, register, result_dtype
from .resize_normalize import finish_backward

__all__ = [
    "cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
]

RULES = ("cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
"""In the order of their numbers in ``csrc/math/cam.h``."""


def cam(activations: Tensor, weights: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Class activation map: the sum of the channels, weighted as given (Zhou 2016, eq. 2).

    Args:
        activations: ``[N, C, *map]``, a map of one, two or three dimensions.
        weights: ``[N, C]``, or ``[N, K, C]`` for K maps per image.
        size: the heatmap's size, an int for all dimensions, or None for the map's own.
        normalize: ReLU, min-max, resize, min-max; False resizes the raw, signed map.

    Returns:
        ``[N, *size]`` or ``[N, K, *size]``, float32 (float64 for fp64 inputs), in [0, 1] when normalised.

    Raises:
        ValueError: shapes, sizes or devices that do not fit.
        TypeError: dtypes that are not floating.
    """
    return _cam_op(torch.ops.camfast.cam.default, activations, weights, "weights", size, normalize)


def grad_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju 2017, eq. 1 and 2).

    Args:
        activations: ``[N, C, *map]``, a map of one, two or three dimensions.
        gradients: of the scores, ``[N, C, *map]``, or ``[N, K, C, *map]`` for K targets per image.
        size: as in :func:`cam`.
        normalize: as in :func:`cam`.

    Returns:
        As :func:`cam`.

    Raises:
        ValueError: shapes, sizes or devices that do not fit.
        TypeError: dtypes that are not floating.
    """
    return _cam_op(torch.ops.camfast.grad_cam.default, activations, gradients, "gradients", size, normalize)


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Grad-CAM++: channels weighted by positive gradients and their higher powers (Chattopadhay 2018, eq. 19).

    Arguments, result and errors as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.grad_cam_plus_plus.default, activations, gradients, "gradients", size, normalize)


def xgrad_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """XGrad-CAM: gradients weighted by their share of the channel's activation (Fu 2020, eq. 8).

    Arguments, result and errors as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.xgrad_cam.default, activations, gradients, "gradients", size, normalize)


def hires_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """HiResCAM: gradient times activation, element by element, summed over channels (Draelos 2020, eq. 3).

    Arguments, result and errors as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.hires_cam.default, activations, gradients, "gradients", size, normalize)


def layer_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """LayerCAM: positive gradient times activation, summed over channels (Jiang 2021, eq. 6 and 7).

    Arguments, result and errors as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.layer_cam.default, activations, gradients, "gradients", size, normalize)


def grad_cam_elementwise(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Element-wise Grad-CAM: the positive part of gradient times activation, summed over channels.

    Arguments, result and errors as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.grad_cam_elementwise.default, activations, gradients, "gradients", size, normalize)


def _cam_op(
    op: Callable[..., Tensor], activations: Tensor, second: Tensor, name: str, size: Size, normalize: bool
) -> Tensor:
    """Checks what all ops of the family share, then calls ``op``."""
    check_floating(activations, "activations")
    check_floating(second, name)
    shape, other = activations.shape, second.shape
    rank = len(shape) - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"activations must have shape [N, C, *map] with 1 to 3 map dimensions, got {list(shape)}")
    expected = shape[:2] if name == "weights" else shape
    if other != expected and (len(other) != len(expected) + 1 or other[0] != shape[0] or other[2:] != expected[1:]):
        with_targets = [*expected[:1], "K", *expected[1:]]
        raise ValueError(
            f"{name} must have shape {list(expected)} or {with_targets} to fit activations {list(shape)}, got {list(other)}"
        )
    if 0 in shape[2:]:
        raise ValueError(f"activations must have at least one position, got shape {list(shape)}")
    if activations.device != second.device:
        raise ValueError(f"activations and {name} must be on one device, got {activations.device} and {second.device}")
    if activations.dtype != second.dtype:  # autocast leaves a mix behind
        dtype = torch.promote_types(activations.dtype, second.dtype)
        activations, second = activations.to(dtype), second.to(dtype)
    if size is not None:
        size = full_size(size, shape[2:])
    return call(op, activations, second, size, normalize)


def _fake(name: str):
    plain = 2 if name == "cam" else None  # dimensions of `second` without K

    def fake(activations, second, size=None, normalize=True):
        has_targets = second.ndim == (plain or activations.ndim) + 1
        lead = second.shape[:2] if has_targets else second.shape[:1]
        own = activations.shape[2:]
        return activations.new_empty((*lead, *(own if size is None else size)), dtype=result_dtype(activations))

    return fake


def _fallback(name: str):
    rule = getattr(reference, name)

    def fallback(activations, second, size=None, normalize=True):
        return rule(activations, second, size, normalize).contiguous()

    return fallback


def _save(ctx, inputs, output) -> None:
    activations, second, _, normalize = inputs
    ctx.save_for_backward(activations, second)
    ctx.normalize = normalize


def _backward(name: str):
    """The backward of ``camfast::<name>``: one kernel, or in parts."""
    rule = RULES.index(name)

    def backward(ctx, grad: Tensor):
        activations, second = ctx.saved_tensors
        op = getattr(torch.ops.camfast, name).default
        with torch.amp.autocast(activations.device.type, enabled=False):
            raw = op(activations, second, None, False)
            grad_map = finish_backward(grad, raw, activations.ndim - 2, ctx.normalize, relu=ctx.normalize)
            if torch.is_grad_enabled():  # to be differentiated in its turn
                return *_in_parts(grad_map, activations, second, rule), None, None
            return *call(torch.ops.camfast.cam_backward.default, grad_map, activations, second, rule), None, None

    return backward


def _in_parts(grad: Tensor, activations: Tensor, second: Tensor, rule: int) -> tuple[Tensor, Tensor]:
    grad_A, grad_second = _map_backward(RULES[rule], grad, activations.to(grad.dtype), second.to(grad.dtype))
    return grad_A.to(activations.dtype), grad_second.to(second.dtype)


def _map_backward(name: str, grad: Tensor, A: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Through the channel sum and the weights, from the raw map's gradient ``[N, (K,) *map]`` to both inputs'."""
    rank = A.ndim - 2
    has_targets = grad.ndim == rank + 2
    a = A.unsqueeze(1) if has_targets else A  # [N, (1,) C, *map]
    r = grad.unsqueeze(-rank - 1)  # [N, (K,) 1, *map]
    positions = tuple(range(-rank, 0))

    def to_activations(x: Tensor) -> Tensor:
        return x.sum(1) if has_targets else x

    def spread(w: Tensor) -> Tensor:  # [N, (K,) C] over the positions
        return w[(...,) + (None,) * rank]

    if name in ("hires_cam", "layer_cam", "grad_cam_elementwise"):
        G = second
        if name == "hires_cam":
            return to_activations(r * G), r * a
        if name == "layer_cam":
            return to_activations(r * G.clamp(min=0)), torch.where(G > 0, r * a, 0)
        active = (G * a > 0).to(G.dtype)
        return to_activations(r * G * active), r * a * active

    grad_w = (r * a).sum(positions)  # d / d weights, [N, (K,) C]
    if name == "cam":
        return to_activations(r * spread(second)), grad_w
    G = second
    count = a.shape[-rank:].numel()
    if name == "grad_cam":
        w = G.mean(positions)
        return to_activations(r * spread(w)), spread(grad_w / count).expand_as(G)
    if name == "xgrad_cam":
        total = a.sum(positions) + XGRAD_EPS
        w = (G * a).sum(positions) / total
        to_w = spread(grad_w / total)
        return to_activations(r * spread(w) + to_w * (G - spread(w))), to_w * a
    # grad_cam_plus_plus: w = sum max(g, 0) g^2 / D, D = 2 g^2 + sum(a) g^3 + eps
    sum_a = spread(a.sum(positions))
    g2, g3 = G * G, G * G * G
    D = 2 * g2 + sum_a * g3 + PLUS_PLUS_EPS
    positive = (G > 0).to(G.dtype)
    w = (positive * g3 / D).sum(positions)
    by_g = positive * (3 * g2 * D - g3 * (4 * G + 3 * sum_a * g2)) / (D * D)
    by_sum = (-positive * g3 * g3 / (D * D)).sum(positions)
    return to_activations(r * spread(w) + spread(grad_w * by_sum)), spread(grad_w) * by_g


for _name in RULES:
    register(_name, _fake(_name), _fallback(_name), _backward(_name), _save)
register(
    "cam_backward",
    lambda grad, activations, second, rule: (torch.empty_like(activations), torch.empty_like(second)),
    _in_parts,
    double=True,
)
