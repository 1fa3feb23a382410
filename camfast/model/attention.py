"""Attention inside any transformer: where it runs, and gradients of scores with respect to its probabilities.

    softmax(q k) = A [N, heads, T, T] -> O = A v -> output projection -> rest of the block

Models do not return A, and fused kernels never hold it. They need not: O is linear in A, so that the gradient of a score
with respect to A is dO v^T, and dO comes from autograd. Calls are met at PyTorch's own functions, in whatever module they
stand: ``scaled_dot_product_attention``, ``multi_head_attention_forward`` (of ``nn.MultiheadAttention``), and ``softmax``
where attention is written out. Nothing of the model is replaced.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import Inputs
from .outputs import tensors_in
from .precision import wide
from .restored import LeftOnce, Restored

__all__ = ["AttentionCall", "blocks_with_attention", "watch_attention"]

_SOFTMAX: set[Callable[..., Any]] = {F.softmax, torch.softmax, Tensor.softmax}
_DROPOUT: set[Callable[..., Any]] = {F.dropout, torch.dropout, torch.dropout_}
_MULTI_HEAD = F.multi_head_attention_forward
_FUSED = F.scaled_dot_product_attention


@dataclass
class AttentionCall:
    """One call of attention: the tensor to differentiate by, and how that gradient becomes the probabilities'."""

    tensor: Tensor  # the probabilities, the heads' output, or the projected output
    value: Tensor | None  # [..., Tk, D], heads before it; None where ``tensor`` are the probabilities
    keys: int  # Tk
    projection: tuple[Tensor, int] | None = None  # weight of the output projection, and number of heads
    modules: tuple[nn.Module, ...] = ()  # that were running, the outermost first
    passed_on: Tensor | None = None  # what the model goes on with

    def shows(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` are these probabilities, as the model has them."""
        own = self.passed_on
        return self.value is None and own is not None and own.data_ptr() == tensor.data_ptr()

    def relevance(self, gradient: Tensor, batch: int) -> Tensor | None:
        """``[N, Tk]``: the positive part of the probabilities' gradient, mean over heads and queries.

        ``gradient`` is that of ``tensor``. None where the call's leading dimensions do not hold a batch of N.
        """
        gradient, value = wide(gradient), None if self.value is None else wide(self.value)
        if self.projection is not None:  # [T, N, E], as PyTorch has it inside
            weight, heads = self.projection
            assert value is not None
            gradient = (gradient @ wide(weight)).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
            value = value.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        if gradient.shape[:-2].numel() % batch:
            return None
        rows = []
        each = gradient.reshape(batch, -1, *gradient.shape[-2:])
        if value is None:
            return each.clamp(min=0).mean((1, 2))
        values = value.reshape(batch, -1, *value.shape[-2:])
        if values.shape[1] != each.shape[1]:  # grouped queries share their keys and values
            values = values.repeat_interleave(each.shape[1] // values.shape[1], 1)
        for own, v in zip(each, values, strict=True):  # image by image: T x T for each head is large
            rows.append((own @ v.mT).clamp(min=0).mean((0, 1)))
        return torch.stack(rows)


class _Watch(LeftOnce):
    """Notes every call of attention in this thread while it is active.

    Where gradients are recorded, the model goes on with a copy of what a call returned: an operation in place that follows
    (``out *= gate``, ``x += residual``) would else change the tensor that is differentiated by, and with it the map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[AttentionCall] = []
        self.running: list[nn.Module] = []
        self.dropout = False  # whether any call dropped some of its probabilities

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is _FUSED:
            given = inspect.getcallargs(_fused_arguments, *args, **kwargs)
            self.dropout |= given["dropout_p"] > 0
            return self._noted(AttentionCall(output, given["value"].detach(), given["value"].shape[-2]))
        if func is _MULTI_HEAD:
            given = inspect.signature(_MULTI_HEAD).bind(*args, **kwargs).arguments
            self.dropout |= given.get("training", True) and given["dropout_p"] > 0
            return (self._noted(_multi_head(output[0], given)), *output[1:])
        if func in _SOFTMAX and isinstance(output, Tensor) and _is_square(output):
            return self._noted(AttentionCall(output, None, output.shape[-1]))
        if func in _DROPOUT:
            given = inspect.getcallargs(_dropout_arguments, *args, **kwargs)
            active = given["training"] and given["p"] > 0
            self.dropout |= bool(active) and any(call.shows(given["input"]) for call in self.calls)
        return output

    def _noted(self, call: AttentionCall) -> Tensor:
        call.modules = tuple(self.running)
        self.calls.append(call)
        call.passed_on = call.tensor.clone() if call.tensor.requires_grad else call.tensor
        return call.passed_on


def _fused_arguments(query, key, value, attn_mask=None, dropout_p=0.0, *rest, **options):
    """The first parameters of ``scaled_dot_product_attention``, which has no signature of its own."""


def _dropout_arguments(input, p=0.5, training=True, inplace=False, train=None):
    """Those of every kind of dropout; ``torch.dropout`` has none of its own."""


def _multi_head(output: Tensor, given: dict[str, Any]) -> AttentionCall:
    value, width = given["value"], given["embed_dim_to_check"]
    weight, bias = given.get("v_proj_weight"), given["in_proj_bias"]
    if weight is None:
        weight = given["in_proj_weight"][2 * width :]
    with torch.no_grad():
        value = F.linear(value, weight, None if bias is None else bias[2 * width :])
    return AttentionCall(output, value, value.shape[0], (given["out_proj_weight"].detach(), given["num_heads"]))


@contextlib.contextmanager
def watch_attention() -> Iterator[list[AttentionCall]]:
    """The calls of attention that happen inside, in order.

    Raises ``ValueError`` at the end where a call dropped some of its probabilities at random: what is seen of attention would
    differ from call to call.
    """
    mode = _Watch()
    with mode:
        yield mode.calls
    if mode.dropout:
        raise ValueError(
            "attention must not drop probabilities at random, got active attention dropout; put the model in evaluation "
            "mode, or leave eval_mode=True"
        )


@dataclass
class _Run:
    """One module that ran in the search for blocks."""

    calls: int = 0  # of attention inside it
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of what it returned


def blocks_with_attention(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of the blocks of a transformer that attend over all tokens of an image, in the order in which they run.

    One pass over ``inputs``. A block is the outermost module around one call of attention that returns as many tokens as
    the call has keys. None where most calls have no such block: attention in windows, as Swin's. ``inputs`` hold one
    image. Make the pass leave no trace (see :func:`camfast.model.tap.quiet`).
    """
    names = {module: name for name, module in model.named_modules()}
    parents = {child: parent for parent in model.modules() for child in parent.children()}
    runs: dict[nn.Module, _Run] = {}
    mode, thread = _Watch(), threading.get_ident()

    def enter(module: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread:
            mode.running.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            mode.running.pop()
            tensor = next((t for t in tensors_in(output) if t.is_floating_point()), None)
            runs.setdefault(module, _Run()).shapes.append(() if tensor is None else tuple(tensor.shape))

    with Restored() as restored, torch.no_grad(), mode:
        for module in names:
            restored.hook(module, enter, before=True)
            restored.hook(module, leave)
        cut = inputs.cut()
        model(*cut.args, **cut.kwargs)

    for call in mode.calls:
        for module in set(call.modules):
            runs[module].calls += 1
    blocks: list[str] = []
    outside = 0
    for call in mode.calls:
        whole = ((1, call.keys), (call.keys, 1))
        tokens = [
            module
            for module in call.modules
            if runs[module].calls == len(runs[module].shapes)
            and any(len(shape) == 3 and shape[:2] in whole for shape in runs[module].shapes)
        ]
        # In a model of one block the whole encoder is such a module as well: an item of a list comes first.
        items = [m for m in tokens if isinstance(parents.get(m), (nn.Sequential, nn.ModuleList))]
        outside += not tokens
        for module in (items or tokens)[:1]:
            if names[module] not in blocks:
                blocks.append(names[module])
    return blocks if outside * 2 <= len(mode.calls) else []


def _is_square(tensor: Tensor) -> bool:
    return tensor.ndim >= 3 and tensor.shape[-1] == tensor.shape[-2]
