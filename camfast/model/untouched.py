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

from .recurrent import leave_cudnn
from .restored import Restored

__all__ = ["leave_no_trace", "quiet"]


@contextlib.contextmanager
def quiet(model: nn.Module, eval_mode: bool = True) -> Iterator[None]:
    """A pass of ``model`` inside leaves no trace: modes, buffers, attributes and caches are as before afterwards.

    Inference mode is left, so that a graph can be recorded; compiled parts run eagerly, since they skip new hooks.
    Attention takes no fast path, whose nested tensors no graph can hold, and checkpoints run as if they were none, since
    those of the reentrant kind refuse gradients that are asked for by name.
    """
    with Restored() as restored:
        leave_no_trace(restored, model, eval_mode)
        yield


def leave_no_trace(restored: Restored, model: nn.Module, eval_mode: bool = True) -> None:
    """Begins what :func:`quiet` says, until ``restored`` is closed."""
    training, compiled = _survey(model)
    graphs = torch.is_grad_enabled()
    restored.back(lambda: torch.set_grad_enabled(graphs))
    inference = torch.inference_mode(False)
    restored.back(lambda: _leave([inference] if hasattr(inference, "_inference_mode_context") else []))
    inference.__enter__()
    cached = torch.is_autocast_cache_enabled()
    restored.back(lambda: torch.set_autocast_cache_enabled(cached))
    # Weights that autocast casts here have no graph; from its cache they would reach the caller's training step.
    torch.set_autocast_cache_enabled(False)
    _take_plain_paths(restored)
    _keep_attributes(restored, model)
    if training and eval_mode:
        _evaluate(restored, training)
    elif training:
        _keep_buffers(restored, training)
    if compiled:
        stance: list[Any] = []
        restored.back(lambda: _leave(stance))
        stance.append(torch.compiler.set_stance("force_eager"))  # which sets it already
    leave_cudnn(restored, model)


def _leave(contexts: list[Any]) -> None:
    for context in contexts:
        context.__exit__(None, None, None)


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


# Modules that are in evaluation mode on behalf of passes now running, and of which: two threads may explain one model at
# the same time, and the last to finish restores the flags. A pass is named by what restores it.
_held: weakref.WeakKeyDictionary[nn.Module, set[int]] = weakref.WeakKeyDictionary()


_held_lock = threading.RLock()  # of one thread twice where a forgotten pass is put back just then


def _evaluate(restored: Restored, modules: list[nn.Module]) -> None:
    own = id(restored)

    def train_again() -> None:
        with _held_lock:
            for module in modules:
                passes = _held.get(module)
                if passes is None:
                    continue
                passes.discard(own)
                if not passes:
                    # In this order: a survey without the lock sees the flag or the entry, whenever it looks.
                    module.training = True
                    _held.pop(module, None)

    restored.back(train_again)
    with _held_lock:
        for module in modules:
            _held.setdefault(module, set()).add(own)
            module.training = False


def _keep_buffers(restored: Restored, modules: list[nn.Module]) -> None:
    buffers = [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]
    with torch.no_grad():
        before = [buffer.clone() for buffer in buffers]

    def put_back() -> None:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

    restored.back(put_back)


# Passes now running, over all threads: the first one switches fast paths off, the last one puts them back.
_running: set[int] = set()
_fast_path_before: bool | None = None  # None: the fast paths are as their user has them
_plain_lock = threading.RLock()
_here = threading.local()  # .passes: those that run in this thread


_Checkpoint = checkpoints.CheckpointFunction


class _PlainCheckpoint:
    """Stands for reentrant checkpointing meanwhile: left out in threads in which a pass of ours runs."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        if _passes_here():
            return function(*args)
        return _Checkpoint.apply(function, preserve, *args)


def _take_plain_paths(restored: Restored) -> None:
    global _fast_path_before
    own, passes = id(restored), _passes_here()

    def put_back() -> None:
        global _fast_path_before
        passes.discard(own)
        with _plain_lock:
            _running.discard(own)
            if not _running and _fast_path_before is not None:
                torch.backends.mha.set_fastpath_enabled(_fast_path_before)
                checkpoints.CheckpointFunction = _Checkpoint  # type: ignore[misc]
                _fast_path_before = None

    restored.back(put_back)
    with _plain_lock:
        if _fast_path_before is None:
            _fast_path_before = torch.backends.mha.get_fastpath_enabled()
        _running.add(own)
        torch.backends.mha.set_fastpath_enabled(False)
        checkpoints.CheckpointFunction = _PlainCheckpoint  # type: ignore[assignment, misc]
    passes.add(own)


def _passes_here() -> set[int]:
    passes: set[int] | None = getattr(_here, "passes", None)
    if passes is None:
        passes = _here.passes = set()
    return passes


# By model: the attributes, besides parameters and buffers, that a pass sets to tensors (weights that pruning and norms of
# the old style compute anew; activations that a module keeps for its user). Looked for in the first pass, since a look at
# every attribute of a deep network would cost more than the rest.
_set_by_passes: weakref.WeakKeyDictionary[nn.Module, list[tuple[weakref.ref[nn.Module], str]]] = (
    weakref.WeakKeyDictionary()
)
_MISSING = object()
_OF_MODULES = frozenset(nn.Module().__dict__)  # modes, hooks, children: kept by others


def _keep_attributes(restored: Restored, model: nn.Module) -> None:
    known = _set_by_passes.get(model)
    if known is None:
        before = [(module, dict(module.__dict__)) for module in model.modules()]
        whole, changed = weakref.ref(restored), list[Any]()
        restored.back(lambda: _put_all_back(model, before, changed, whole()))
        return
    kept = [(holder, name, holder.__dict__.get(name, _MISSING)) for ref, name in known if (holder := ref()) is not None]
    restored.back(lambda: _put_those_back(kept))


def _put_all_back(
    model: nn.Module, before: list[tuple[nn.Module, dict[str, Any]]], changed: list[Any], restored: Restored | None
) -> None:
    """Puts back what was set; ``changed`` says what that was, also of a first round that was interrupted."""
    for module, attributes in before:
        for name in _set(module, attributes):
            changed.append((weakref.ref(module), name))
            _put_back(module, name, attributes.get(name, _MISSING))
    if restored is not None and not restored.failed:  # a pass cut short may not have set all that a whole one sets
        _set_by_passes.setdefault(model, changed)


def _set(module: nn.Module, before: dict[str, Any]) -> list[str]:
    """The attributes that a pass has set, where a tensor is one of them.

    What else the module noted goes back with the tensor: one kept for inputs of a size, and that size, belong together.
    """
    own = module.__dict__
    changed = [name for name, value in own.items() if value is not before.get(name, _MISSING)]
    if not any(isinstance(own[name], Tensor) for name in changed):
        return []
    return [name for name in changed if name not in _OF_MODULES and not callable(own[name])]


def _put_those_back(kept: list[tuple[nn.Module, str, Any]]) -> None:
    for one in kept:
        _put_back(*one)


def _put_back(module: nn.Module, name: str, value: Any) -> None:
    if value is _MISSING:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = value
