"""Which layers to explain: by name, by module, or found."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import nn

from ..errors import closest, or_rather

__all__ = ["ALL_CALLS", "Layer", "call_of", "refuse_exported", "resolve"]

Layer = str | nn.Module

ALL_CALLS = "*"
"""In place of a call's number, as in ``"net#*"``: every call of the layer."""

_WRAPPERS = ("_orig_mod", "module")  # how torch.compile and DataParallel name what they wrap


def resolve(model: nn.Module, layers: Layer | Sequence[Layer]) -> tuple[list[str], list[nn.Module]]:
    """Names and modules of ``layers``, in the order given: dotted names, modules of ``model``, or a mixture.

    Of a layer that runs several times in a pass ``"net#1"`` is the first call, ``"net#2"`` the second, ``"net#*"`` each of
    them; such names stay as they are (see :func:`call_of`).

    Raises ``ValueError`` for a name or a module the model does not have, with the closest names.
    """
    refuse_exported(model)
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    if len(layers) == 0:
        raise ValueError("expected at least one layer, got none")
    by_name = dict(model.named_modules(remove_duplicate=False))
    names = [_name_of(layer, by_name) for layer in layers]
    modules = [by_name[call_of(name, by_name)[0]] for name in names]
    for name, module in zip(names, modules, strict=True):
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"a layer must run in Python, got {name!r}, which TorchScript compiled")
    return names, modules


def call_of(name: str, known: Container[str] = ()) -> tuple[str, int | str | None]:
    """A layer's name without the number of a call, and that number: from 1, ``"*"`` for all, None where there is none.

    Names in ``known`` are layers' own, whatever they look like.
    """
    base, sign, number = name.rpartition("#")
    if not sign or name in known or not (number == ALL_CALLS or (number.isdecimal() and int(number) > 0)):
        return name, None
    return base, number if number == ALL_CALLS else int(number)


def refuse_exported(model: nn.Module) -> None:
    """Raises ``TypeError`` for what ``torch.export`` makes: one graph of operations, in which no module runs."""
    if not isinstance(model, torch.fx.GraphModule):
        return
    called = {node.target for node in model.graph.nodes if node.op == "call_module"}
    if not called - {"_guards_fn"} and any(name != "_guards_fn" for name, _ in model.named_children()):
        raise TypeError(
            "expected a model whose layers run as modules, got one graph of operations, as torch.export makes it, which has "
            "no layers to tap; explain the model that was exported, or torch.export.unflatten(program)"
        )


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
    base, call = call_of(layer)
    if call is not None:
        return f"{_name_of(base, by_name)}#{call}"
    bare = _without_wrappers(layer)
    for name in by_name:
        if bare and bare == _without_wrappers(name):
            return name
    names = [name for name in by_name if name]
    hint = or_rather(closest(layer, names, 4, 0.4), sorted(names, key=lambda name: name.count(".")))
    raise ValueError(f"expected a layer of the model, got {layer!r}{hint}")


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
