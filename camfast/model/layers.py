"""Which layers to explain: by name, by module, or found."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Layer", "resolve"]

Layer = str | nn.Module

_WRAPPERS = ("_orig_mod", "module")  # how torch.compile and DataParallel name what they wrap


def resolve(model: nn.Module, layers: Layer | Sequence[Layer]) -> tuple[list[str], list[nn.Module]]:
    """Names and modules of ``layers``, in the order given: dotted names, modules of ``model``, or a mixture.

    Raises ``ValueError`` for a name or a module the model does not have, with the closest names.
    """
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    if len(layers) == 0:
        raise ValueError("expected at least one layer, got none")
    by_name = dict(model.named_modules(remove_duplicate=False))
    names = [_name_of(layer, by_name) for layer in layers]
    modules = [by_name[name] for name in names]
    for name, module in zip(names, modules, strict=True):
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"a layer must run in Python, got {name!r}, which TorchScript compiled")
    return names, modules


def _name_of(layer: Layer, by_name: dict[str, nn.Module]) -> str:
    if isinstance(layer, nn.Module):
        for name, module in by_name.items():
            if module is layer:
                return name
        raise ValueError(f"every layer must belong to the model, got a {type(layer).__name__} that does not")
    if not isinstance(layer, str):
        raise TypeError(f"a layer must be a name or a module, got {type(layer).__name__}")
    if layer in by_name:
        return layer
    bare = _without_wrappers(layer)
    for name in by_name:
        if bare and bare == _without_wrappers(name):
            return name
    close = difflib.get_close_matches(layer, [name for name in by_name if name], n=4, cutoff=0.4)
    hint = f"close to it: {', '.join(map(repr, close))}" if close else "see model.named_modules()"
    raise ValueError(f"expected a layer of the model, got {layer!r}; {hint}")


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
