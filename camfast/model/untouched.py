"""A pass that leaves no trace: modes, buffers, attributes and caches are afterwards as they were before."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.checkpoint as checkpoints
from torch import Tensor, nn

from .recurrent import without_cudnn

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(model: nn.Module, eval_mode: bool = True) -> Iterator[None]:
    """A pass of ``model`` inside leaves no trace: modes, buffers, attributes and caches are as before afterwards.

    Inference mode is left, so that a graph can be recorded; compiled parts run eagerly, since they skip new hooks.
    Attention takes no fast path, whose nested tensors no graph can hold, and checkpoints run as if they were none, since
    those of the reentrant kind refuse gradients that are asked for by name.
    """
    training, compiled = _survey(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        # Weights that autocast casts here have no graph; from its cache they would reach the caller's training step.
        torch.set_autocast_cache_enabled(False)
        stack.enter_context(_plain_paths())
        stack.enter_context(_attributes_kept(model))
        if training:
            stack.enter_context(_evaluation(training) if eval_mode else _buffers_kept(training))
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(without_cudnn(model))
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


# Passes now running, over all threads: the first one switches fast paths off, the last one puts them back.
_running = 0
_fast_path_before = True
_plain_lock = threading.Lock()
_here = threading.local()  # .passes: how many of them run in this thread


_Checkpoint = checkpoints.CheckpointFunction


class _PlainCheckpoint:
    """Stands for reentrant checkpointing meanwhile: left out in threads in which a pass of ours runs."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        if getattr(_here, "passes", 0):
            return function(*args)
        return _Checkpoint.apply(function, preserve, *args)


@contextlib.contextmanager
def _plain_paths() -> Iterator[None]:
    global _running, _fast_path_before
    with _plain_lock:
        if not _running:
            _fast_path_before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            checkpoints.CheckpointFunction = _PlainCheckpoint  # type: ignore[assignment, misc]
        _running += 1
    _here.passes = getattr(_here, "passes", 0) + 1
    try:
        yield
    finally:
        _here.passes -= 1
        with _plain_lock:
            _running -= 1
            if not _running:
                torch.backends.mha.set_fastpath_enabled(_fast_path_before)
                checkpoints.CheckpointFunction = _Checkpoint  # type: ignore[misc]


# By model: the attributes, besides parameters and buffers, that a pass sets to tensors (weights that pruning and norms of
# the old style compute anew; activations that a module keeps for its user). Looked for in the first pass, since a look at
# every attribute of a deep network would cost more than the rest.
_set_by_passes: weakref.WeakKeyDictionary[nn.Module, list[tuple[weakref.ref[nn.Module], str]]] = (
    weakref.WeakKeyDictionary()
)
_MISSING = object()
_OF_MODULES = frozenset(nn.Module().__dict__)  # modes, hooks, children: kept by others


@contextlib.contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    known = _set_by_passes.get(model)
    if known is None:
        before = [(module, dict(module.__dict__)) for module in model.modules()]
        try:
            yield
        finally:
            found = [(module, attributes, _set(module, attributes)) for module, attributes in before]
            for module, attributes, names in found:
                for name in names:
                    _put_back(module, name, attributes.get(name, _MISSING))
            _set_by_passes[model] = [(weakref.ref(module), name) for module, _, names in found for name in names]
        return
    kept = [(holder, name, holder.__dict__.get(name, _MISSING)) for ref, name in known if (holder := ref()) is not None]
    try:
        yield
    finally:
        for one, name, value in kept:
            _put_back(one, name, value)


def _set(module: nn.Module, before: dict[str, Any]) -> list[str]:
    """The attributes that a pass has set, where a tensor is one of them.

    What else the module noted goes back with the tensor: one kept for inputs of a size, and that size, belong together.
    """
    own = module.__dict__
    changed = [name for name, value in own.items() if value is not before.get(name, _MISSING)]
    if not any(isinstance(own[name], Tensor) for name in changed):
        return []
    return [name for name in changed if name not in _OF_MODULES and not callable(own[name])]


def _put_back(module: nn.Module, name: str, value: Any) -> None:
    if value is _MISSING:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = value
