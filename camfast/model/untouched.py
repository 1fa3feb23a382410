"""A pass that leaves no trace: modes, buffers and caches are afterwards as they were before."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(model: nn.Module, eval_mode: bool = True) -> Iterator[None]:
    """A pass of ``model`` inside leaves no trace: modes, buffers and caches are as before afterwards.

    Inference mode is left, so that a graph can be recorded; compiled parts run eagerly, since they skip new hooks.
    """
    training, compiled = _survey(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        # Weights that autocast casts here have no graph; from its cache they would reach the caller's training step.
        torch.set_autocast_cache_enabled(False)
        if training:
            stack.enter_context(_evaluation(training) if eval_mode else _buffers_kept(training))
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _survey(model: nn.Module) -> tuple[list[nn.Module], bool]:
    """Modules of ``model`` in training mode, or held out of it by another pass; and whether any part is compiled.

    One walk, several times faster than ``modules()``: it is the largest fixed cost of an explanation.
    """
    training, compiled = [], False
    seen: set[nn.Module] = set()
    # A plain dict: asking the weak one for its length costs more than all else here.
    held = _held.data  # type: ignore[attr-defined]
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        if module.training or (held and module in _held):
            training.append(module)
        children = module._modules
        if module._compiled_call_impl is not None or "_orig_mod" in children:
            compiled = True
        if children:
            waiting.extend(children.values())
    return training, compiled


# Modules that are in evaluation mode on behalf of passes now running, and by how many of them: two threads may explain
# one model at the same time, and the last to finish restores the flags.
_held: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


_held_lock = threading.Lock()


@contextlib.contextmanager
def _evaluation(modules: list[nn.Module]) -> Iterator[None]:
    with _held_lock:
        for module in modules:
            _held[module] = _held.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _held_lock:
            for module in modules:
                _held[module] -= 1
                if not _held[module]:
                    # In this order: a survey without the lock sees the flag or the entry, whenever it looks.
                    module.training = True
                    del _held[module]


@contextlib.contextmanager
def _buffers_kept(modules: list[nn.Module]) -> Iterator[None]:
    buffers = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
    with torch.no_grad():
        before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
