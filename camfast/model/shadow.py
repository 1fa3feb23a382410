"""A second tree of modules around the same weights, for tools that change a model while they look at it."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["shadow"]

_OWN = frozenset(nn.Module().__dict__)  # parameters, buffers, children and hooks among them


def shadow(model: nn.Module) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
    """A tree like ``model``'s that shares its tensors and attributes, with the same hooks, which may be changed freely.

    What is set on its modules, their modes and parameters included, is not seen by the model, nor by threads that run it.

    Returns:
        The tree's root, and for each module of ``model`` the one that stands for it.
    """
    twins: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):  # in memory of its own, which nothing here sets
            twins[module] = module
            continue
        twin = twins[module] = module.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        for name, value in module.__dict__.items():
            if name in _OWN and isinstance(value, (dict, set)):
                twin.__dict__[name] = copy.copy(value)
    for module, twin in twins.items():
        if twin is module:
            continue
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else twins[child]
    return twins[model], twins
