"""Layers by type or by a condition, and layers put in place of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "find_layer_predicate_recursive",
    "find_layer_types_recursive",
    "replace_all_layer_type_recursive",
    "replace_layer_recursive",
]


def replace_layer_recursive(model: Any, old_layer: Any, new_layer: Any) -> bool:
    """Puts ``new_layer`` where ``old_layer`` is first found below ``model``; False where it is not."""
    for name, child in model._modules.items():
        if child is old_layer:
            model._modules[name] = new_layer
            return True
        if replace_layer_recursive(child, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(model: Any, old_layer_type: Any, new_layer: Any) -> None:
    """Puts ``new_layer`` in place of every layer of a type below ``model``."""
    for name, child in list(model._modules.items()):
        if isinstance(child, old_layer_type):
            model._modules[name] = new_layer
        replace_all_layer_type_recursive(child, old_layer_type, new_layer)


def find_layer_types_recursive(model: Any, layer_types: Iterable[type]) -> list[Any]:
    """Layers below ``model`` that are exactly of one of the types, in the order of registration."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: Any, predicate: Callable[[Any], bool]) -> list[Any]:
    """Layers below ``model`` for which ``predicate`` holds, in the order of registration."""
    found: list[Any] = []
    for child in model._modules.values():
        if predicate(child):
            found.append(child)
        found += find_layer_predicate_recursive(child, predicate)
    return found
