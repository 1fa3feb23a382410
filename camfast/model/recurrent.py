"""Recurrent layers of cuDNN, which refuse a backward pass in evaluation mode: meanwhile PyTorch's own kernels run."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["without_cudnn"]

_of_models: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[nn.RNNBase]] = weakref.WeakKeyDictionary()

# Recurrent layers now running, over all threads: the first one switches cuDNN off, the last one puts it back.
_running = 0
_enabled_before = True
_lock = threading.Lock()
_here = threading.local()  # .running: how many of them run in this thread


@contextlib.contextmanager
def without_cudnn(model: nn.Module) -> Iterator[None]:
    """In passes inside, ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` on a CUDA device in evaluation mode run without cuDNN.

    Everything else keeps it.
    """
    layers = _of_models.get(model)
    if layers is None:
        layers = weakref.WeakSet(module for module in model.modules() if isinstance(module, nn.RNNBase))
        _of_models[model] = layers
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if not layer.training and _on_cuda(layer):
                stack.callback(layer.register_forward_pre_hook(_switch_off).remove)
                stack.callback(layer.register_forward_hook(_put_back, always_call=True).remove)
        yield


def _on_cuda(layer: nn.RNNBase) -> bool:
    return any(weight.is_cuda for weight in layer.parameters())


def _switch_off(layer: nn.Module, args: Any) -> None:
    global _running, _enabled_before
    with _lock:
        if not _running:
            _enabled_before = torch.backends.cudnn.enabled
            torch.backends.cudnn.enabled = False
        _running += 1
    _here.running = getattr(_here, "running", 0) + 1


def _put_back(layer: nn.Module, args: Any, output: Any) -> None:
    global _running
    if not getattr(_here, "running", 0):
        return  # another hook raised before ours ran
    _here.running -= 1
    with _lock:
        _running -= 1
        if not _running:
            torch.backends.cudnn.enabled = _enabled_before
