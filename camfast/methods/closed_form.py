"""Gradients without a backward pass, where everything after the layer is pooling and one linear layer.

There the gradient of a class's score is the same at all S positions and for all images: its row of the linear layer over
S. Maps of any number of classes are then one matrix product with the activations of a pass without a graph. Nothing is
taken on trust: once for each model and shape, the graph of a pass is walked, and every operation in it must be linear;
the formula must give the model's scores; and its gradients must be autograd's for a few classes. Weights are read at
every call, and at every call the maps' means must give the scores, so that a model that was changed is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..last_linear import operation
from ..taps import Tap
from ..targets import ALL, Chosen, Targets, TopK
from .projection import Head, candidates

__all__ = ["agrees", "asks_for_several", "find"]

# What autograd calls operations that are linear in the activations, weights being fixed.
_LINEAR = {
    "AccumulateGrad",
    "AdaptiveAvgPool2DBackward",
    "AdaptiveAvgPool3DBackward",
    "AddmmBackward",
    "AliasBackward",
    "AvgPool2DBackward",
    "AvgPool3DBackward",
    "CloneBackward",
    "ConvolutionBackward",
    "LinearBackward",
    "MeanBackward",
    "MkldnnLinearBackward",
    "MmBackward",
    "PermuteBackward",
    "ReshapeAliasBackward",
    "SqueezeBackward",
    "TBackward",
    "ToCopyBackward",
    "TransposeBackward",
    "UnsafeViewBackward",
    "UnsqueezeBackward",
    "ViewBackward",
}
_PROBES = 3  # classes whose gradients are compared


def asks_for_several(targets: Targets) -> bool:
    """Whether ``targets`` mean several classes an image, as far as can be told without scores."""
    if isinstance(targets, TopK):
        return targets.k > 1
    if isinstance(targets, str):
        return targets == ALL
    shape = getattr(targets, "shape", None)
    if shape is not None:
        return len(shape) == 2 and shape[1] > 1
    first: Any = targets[0] if isinstance(targets, Sequence) and len(targets) else None
    if not isinstance(first, Sequence) or isinstance(first, str) or len(first) < 2:
        return False
    return not any(callable(target) for target in first)


def find(model: nn.Module, tap: Tap, activations: Tensor, chosen: Chosen) -> Head | None:
    """The linear head after the one layer of ``tap``, whose ``activations`` ``[N, C, *map]`` and graph it holds still.

    None where there is none, or where anything about it is in doubt.
    """
    scores, ids = chosen.scores, chosen.targets
    if not isinstance(ids, Tensor) or ids.ndim != 2 or scores.ndim != 2 or not _is_linear(scores):
        return None
    for head in candidates(model, activations, scores):
        known = bool(scores.isfinite().any())
        if not known or not head.is_plain or not _close(head.scores(activations), scores, head.bias(), scores.dtype):
            continue
        probes = ids[:, torch.linspace(0, ids.shape[1] - 1, min(_PROBES, ids.shape[1])).long().to(ids.device)]
        (found,) = tap.gradients(*Chosen(probes, scores).objective(), keep=True)  # [probes, N, C, *map]
        expected = head.weights()[probes].float() / activations.shape[2:].numel()  # [N, probes, C]
        found = found.transpose(0, 1).float().flatten(3)
        low, high = torch.aminmax(found, dim=-1)
        if all(_close(ends, expected, 0, scores.dtype) for ends in (low, high)):
            return head
    return None


def agrees(head: Head, maps: Tensor, chosen: Chosen) -> bool:
    """Whether the mean of each of ``maps`` ``[N, K, *map]``, products with the rows of ``chosen``, is its score.

    Waits for the device.
    """
    assert isinstance(chosen.targets, Tensor)
    bias = head.bias()
    own = bias if bias.ndim == 0 else bias[chosen.targets]
    scores = chosen.scores.detach().gather(1, chosen.targets)
    return _close(maps.flatten(2).mean(2) + own, scores, own, scores.dtype)


def _is_linear(scores: Tensor) -> bool:
    """Whether every operation of the graph behind ``scores`` is linear in the activations it starts from."""
    seen: set[Any] = set()
    waiting = [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if operation(node) not in _LINEAR:
            return False
        waiting += [following for following, _ in node.next_functions]
    return bool(seen)


def _close(found: Tensor, expected: Tensor, bias: Tensor | int, dtype: torch.dtype) -> bool:
    """Equal up to the rounding of ``dtype``, by the largest value without the bias, wherever ``expected`` is finite."""
    share = 1e-3 if dtype in (torch.float32, torch.float64) else 3e-2  # fp32 may have been computed in TF32
    found, expected = found.detach().float(), expected.detach().float()
    known = expected.isfinite()
    scale = torch.where(known, (expected - bias).abs(), 0).amax()
    return bool(((found - expected).abs() <= share * scale).logical_or(~known).all())
