"""Recurrent layers of cuDNN, which refuse a backward pass in evaluation mode: meanwhile PyTorch's own kernels run."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import nn

from .restored import Restored

__all__ = ["leave_cudnn"]

_of_models: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[nn.RNNBase]] = weakref.WeakKeyDictionary()

# Recurrent layers now running, over all threads: the first one switches cuDNN off, the last one puts it back.
_running = 0
_enabled_before = True
_lock = threading.Lock()
_here = threading.local()  # .running: how many of them run in this thread


def leave_cudnn(restored: Restored, model: nn.Module) -> None:
    """Until ``restored`` is closed ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` on a CUDA device run without cuDNN in evaluation mode.

    Everything else keeps it.
    """
    layers = _of_models.get(model)
    if layers is None:
        layers = weakref.WeakSet(module for module in model.modules() if isinstance(module, nn.RNNBase))
        _of_models[model] = layers
    for layer in layers:
        if not layer.training and _on_cuda(layer):
            restored.hook(layer, lambda *args: _switch_off(*args), before=True)  # one of this pass, not of all
            restored.hook(layer, lambda *args: _put_back(*args), always_call=True)


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
