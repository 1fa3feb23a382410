"""Which layer to explain, and token layouts back to a grid."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

__all__ = ["resolve"]

Layer = str | nn.Module

_WRAPPERS = ("_orig_mod", "module")  # how torch.compile and DataParallel name what they wrap


def resolve(model: nn.Module, layers: Layer | Sequence[Layer]) -> tuple[list[str], list[nn.Module]]:
    """Names and modules of ``layers``, in the order given: dotted names, modules of ``model``, or a mixture.

    Raises ``ValueError`` for a name or a module the model does not have, with the closest names.
    """
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    if not layers:
        raise ValueError("expected at least one layer, got none")
    by_name = dict(model.named_modules(remove_duplicate=False))
    names = [_name_of(layer, by_name) for layer in layers]
    return names, [by_name[name] for name in names]


def _name_of(layer: Layer, by_name: dict[str, nn.Module]) -> str:
    if isinstance(layer, nn.Module):
        name = next((name for name, module in by_name.items() if module is layer), None)
        if name is None:
            raise ValueError(f"every layer must belong to the model, got a {type(layer).__name__} that does not")
        return name
    if not isinstance(layer, str):
        raise TypeError(f"a layer must be a name or a module, got {type(layer).__name__}")
    if layer in by_name:
        return layer
    bare = ".".join(part for part in layer.split(".") if part not in _WRAPPERS)
    for name in by_name:
        if bare and bare == ".".join(part for part in name.split(".") if part not in _WRAPPERS):
            return name
    close = difflib.get_close_matches(layer, [name for name in by_name if name], n=4, cutoff=0.4)
    hint = f"; close to it: {', '.join(map(repr, close))}" if close else ""
    raise ValueError(f"the model has no layer {layer!r}{hint}")


def find_layers(model, inputs):
    """Bootstrap: the last module that gives a map of more than one position."""
    import torch

    from .taps import quiet

    last = []
    def note(name):
        def hook(module, args, output):
            if isinstance(output, torch.Tensor) and output.ndim == inputs.image.ndim and output.shape[2:].numel() > 1 \
               and not type(module).__name__.startswith("Adaptive"):
                if last and last[-1][1] is output or not last:
                    last.clear()
                last.append((name, output))
                del last[:-1]
        return hook
    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if n]
    try:
        with quiet(model), torch.no_grad():
            one = inputs.first().cut()
            model(*one.args, **one.kwargs)
    finally:
        for h in handles:
            h.remove()
    return [last[-1][0]]
