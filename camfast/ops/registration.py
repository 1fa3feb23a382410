"""How an op becomes known to the dispatcher beside its CPU and CUDA kernels: fake, fallback and derivative; and its call."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd import forward_ad

from . import forked, libraries  # loads the kernels, and with them the schemas

__all__ = ["call", "register", "result_dtype"]

_warned_devices: set[str] = set()
_plain: dict[Callable[..., Any], Callable[..., Any]] = {}  # by op: the same in plain PyTorch


def register(
    name: str,
    fake: Callable[..., Any],
    fallback: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    double: bool = False,
) -> None:
    """Completes the op ``camfast::<name>``, whose schema and kernels the compiled libraries brought.

    Args:
        name: of the op.
        fake: the result's shape, dtype and layout, for ``torch.compile`` and ``torch.export``.
        fallback: the op in plain PyTorch, for devices without kernels; one warning per device says that it runs.
        backward: from the result's gradient to the inputs'; None where there is no derivative.
        setup_context: keeps for ``backward`` what it needs.
        double: whether fp64 on CUDA runs the fallback, as it does for every op with a derivative.
    """

    def warned(*args: Any) -> Any:
        _warn_once(args[0].device)
        return fallback(*args)

    qualified = f"camfast::{name}"
    _plain[getattr(torch.ops.camfast, name).default] = fallback
    torch.library.register_fake(qualified, fake)
    # Backends with kernels of their own override this; the rest (MPS, XPU, CUDA without its library) come here.
    torch.library.impl(qualified, "CompositeExplicitAutograd")(warned)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context)
    if backward is not None or double:
        # For fp64 on CUDA, which has no kernels: csrc/cuda/reference.h calls it in their place.
        schema = str(getattr(torch.ops.camfast, name).default._schema)
        torch.library.define(f"{qualified}_reference", schema[schema.index("(") :])
        torch.library.impl(f"{qualified}_reference", "CompositeExplicitAutograd")(fallback)


def call(op: Callable[..., Any], *args: Any) -> Any:
    """``op(*args)``; where no gradient can be asked for, past the autograd key, whose Python kernel costs microseconds.

    Where forward-mode derivatives are asked for, or inside the transforms of ``torch.func``, the op runs in plain PyTorch,
    which has all of them.

    Raises ``torch.OutOfMemoryError`` where memory is not enough, and ``ValueError`` for what a kernel refuses.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    if forked.is_due:
        forked.warn_once()
    if (forward_ad._current_level >= 0 or peek_interpreter_stack() is not None) and any(map(_is_transformed, args)):
        return _plain[op](*args)
    try:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return op(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)
    except RuntimeError as error:
        told = _in_words(error)
        if told is None:
            raise
        raise told from None


def _is_transformed(value: object) -> bool:
    """Whether ``value`` is a tensor with a tangent, or one of a transform's."""
    if not isinstance(value, Tensor):
        return False
    return is_functorch_wrapped_tensor(value) or forward_ad.unpack_dual(value).tangent is not None


_CHECKED = re.compile(r"\w+, \S*csrc/\S+:\d+, (?P<words>[^\n]*)")  # how a check of our own in C++ reads
_NO_MEMORY = ("not enough memory", "can't allocate memory", "std::bad_alloc")


def _in_words(error: RuntimeError) -> Exception | None:
    """What a kernel raised, without the place in its source and in its own type; None for what others raised."""
    text = str(error)
    checked = _CHECKED.match(text)
    words = checked["words"] if checked else text
    if isinstance(error, torch.OutOfMemoryError):
        return None
    if any(sign in text for sign in _NO_MEMORY):
        return torch.OutOfMemoryError(
            words if checked else "there is not enough memory for this op's result and scratch"
        )
    return ValueError(words) if checked else None


def result_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a heatmap made of ``tensor``: float64 for float64, float32 for the others."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _warn_once(device: torch.device) -> None:
    if device.type in _warned_devices:
        return
    _warned_devices.add(device.type)
    reason = libraries.cuda_problem if device.type == "cuda" else ""
    reason = reason or f"camfast has no kernel of this op for {device.type}"
    warnings.warn(f"{reason}; the slower plain-PyTorch reference runs instead", stacklevel=4)
