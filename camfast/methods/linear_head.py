"""Gradients without a backward pass, where little follows the layer.

Three things are known of the end of most classifiers, and each saves a pass:

1. *The last linear layer.* The gradient of one class's score with respect to what a linear layer read is that class's row
   of its weight. Taking the row reads C numbers; multiplying a one-hot vector by the weight, as autograd would, reads
   C x classes of them. The values are the same to the last bit.
2. *Pooling before it.* ``activations -> (clone) -> mean over the map -> (flatten) -> last linear layer -> scores``: the
   gradient is the same at every position, that behind the pooling over the number of positions.
3. *Both, for many classes.* Maps of any number of classes are then one matrix product with the activations of a pass
   without a graph. Nothing is taken on trust: once for each model and shape, the graph of a pass is walked, and every
   operation in it must be linear; the formula must give the model's scores; and its gradients must be autograd's for a
   few classes. Weights are read at every call, and at every call the maps' means must give the scores, so that a model
   that was changed is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from ..model.precision import wide_dtype
from ..model.tap import Tap
from ..targets import ALL, Targets, TopK
from .chosen import Chosen

__all__ = [
    "Head",
    "agrees",
    "asks_for_several",
    "candidates",
    "find",
    "gives_scores",
    "gradient_of_pooled",
    "operation",
    "products",
    "start_of",
]


class Head(NamedTuple):
    """``scores = linear(mean(activation(A)))``, or ``mean(after(linear(A)))``."""

    layer: nn.Module
    activation: Callable[[Tensor], Tensor]
    after: Callable[[Tensor], Tensor] | None

    @property
    def is_plain(self) -> bool:
        """Whether a linear layer follows global average pooling, and nothing else happens."""
        return self.activation is _same and self.after is None

    def weights(self) -> Tensor:
        """``[classes, C]``."""
        return self.layer.get_parameter("weight").detach().flatten(1)

    def bias(self) -> Tensor:
        """``[classes]``, or zero."""
        bias = self.layer._parameters.get("bias")
        return torch.zeros((), device=self.weights().device) if bias is None else bias.detach().float()

    def scores(self, activations: Tensor) -> Tensor:
        """What the head would give, ``[N, classes]``, in fp32."""
        A = self.activation(activations).float().flatten(2)
        if self.after is None:
            return A.mean(2) @ self.weights().float().t() + self.bias()
        planes = self.weights().float() @ A + self.bias().reshape(-1, 1)
        return self.after(planes).mean(2)


def products(rows: Tensor, activations: Tensor) -> Tensor:
    """``[N, K, *map]``: the sums over channels of ``rows`` ``[K, C]``, or ``[N, K, C]``, times ``activations``.

    In fp32, or fp64 for fp64, under autocast too.
    """
    wide = wide_dtype(activations)
    with torch.autocast(activations.device.type, enabled=False):
        positions = activations.to(wide).flatten(2).mT.contiguous()  # [N, S, C]
        rows = rows.to(wide)
        maps = F.linear(positions, rows) if rows.ndim == 2 else positions @ rows.mT  # [N, S, K]
    return maps.mT.contiguous().unflatten(2, activations.shape[2:])


def candidates(model: nn.Module, activations: Tensor, scores: Tensor) -> Iterator[Head]:
    """Heads of the right shape, the last layer of the model first."""
    if scores.ndim != 2:
        return
    for layer in reversed(list(model.modules())):
        weight = layer._parameters.get("weight")
        if weight is None or weight.shape[:2] != (scores.shape[1], activations.shape[1]) or weight[0, 0].numel() != 1:
            continue
        yield Head(layer, _same, None)
        yield Head(layer, torch.relu, None)
        yield Head(layer, _same, torch.relu)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def gives_scores(found: Tensor, scores: Tensor, bias: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``found`` are the model's scores, up to rounding, measured by what the activations contribute to them."""
    share = 1e-2 if dtype in (torch.float32, torch.float64) else 1e-1  # fp32 may have been computed in TF32
    scale = (scores - bias).abs().nan_to_num(0, 0, 0).amax()
    return torch.allclose(found, scores, rtol=0, atol=share * float(scale), equal_nan=True)


def operation(node: Any) -> str:
    """The name of what a node of the graph goes back through, without its version: ``"AddmmBackward"``."""
    return type(node).__name__.rstrip("0123456789")


def behind_last_linear(scores: Tensor, ids: Tensor) -> tuple[GradientEdge, Tensor] | None:
    """The edge of the graph that leads to the last linear layer's input ``[N, C]``, and gradients there.

    ``ids`` ``[N]`` give gradients ``[N, C]``, ``[N, K]`` give ``[K, N, C]``. None where ``scores`` ``[N, classes]`` do not
    come straight from a matrix product whose first factor depends on the activations.
    """
    node: Any = scores.grad_fn
    name = operation(node)
    if scores.ndim != 2 or name not in ("AddmmBackward", "MmBackward"):
        return None
    before, output = node.next_functions[1 if name == "AddmmBackward" else 0]
    if before is None or (name == "AddmmBackward" and node._saved_alpha != 1):
        return None
    weight = node._saved_mat2  # [C, classes]
    if weight is None or weight.shape[1:] != scores.shape[1:] or weight.dtype != scores.dtype:
        return None
    rows = weight.detach().t()[ids]  # [N, C] or [N, K, C]
    return GradientEdge(before, output), rows if ids.ndim == 1 else rows.transpose(0, 1)


def start_of(chosen: Chosen) -> tuple[Tensor | GradientEdge, Tensor | None]:
    """As :meth:`Chosen.objective`, or the same gradients further back in the graph, where they cost nothing."""
    found = behind_last_linear(chosen.scores, chosen.targets) if isinstance(chosen.targets, Tensor) else None
    return chosen.objective() if found is None else found


def gradient_of_pooled(activations: Tensor, start: GradientEdge, gradient: Tensor) -> Tensor | None:
    """The gradient at each position of ``activations`` ``[N, C, *map]``, a leaf, from that at ``start``, ``[..., N, C]``.

    None where anything else lies between the two.
    """
    shape = tuple(activations.shape)
    pooled = shape[:2] + (1,) * len(shape[2:])
    node: Any = start.node
    if operation(node) in ("ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward"):
        if tuple(node._saved_self_sym_sizes) != pooled:
            return None
        node = node.next_functions[0][0]
    if operation(node) == "AsStridedBackward":  # how adaptive pooling names the memory format of [N, C, 1, 1]
        same = tuple(node._saved_size) == pooled and tuple(node._saved_stride[:2]) == (shape[1], 1)
        if not same or node._saved_storage_offset:
            return None
        node = node.next_functions[0][0]
    if operation(node) != "MeanBackward" or tuple(node._saved_self_sym_sizes) != shape or not node._saved_dim:
        return None
    rank = len(shape)
    # Dimensions counted from the end come back as unsigned numbers.
    dims = {(dim - 2**64 if dim >= 2**63 else dim) % rank for dim in node._saved_dim}
    if dims != set(range(2, rank)):
        return None
    node = node.next_functions[0][0]
    if operation(node) == "CloneBackward":
        node = node.next_functions[0][0]
    if operation(node) != "AccumulateGrad" or node.variable is not activations:
        return None
    return gradient / activations.shape[2:].numel()


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
