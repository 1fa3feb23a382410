"""Tensors inside what models return: tuples, lists, named tuples, mappings and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["replace_first", "scores_in", "tensors_in"]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in ``value``, in order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for _, item in _items(value):
            yield from tensors_in(item)


def scores_in(output: Any) -> Tensor | None:
    """The scores in what a model returned: itself, its ``logits`` or ``out``, or its first floating tensor."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    for name in ("logits", "out"):
        named = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(named, Tensor):
            return named
    return next((tensor for tensor in tensors_in(output) if tensor.is_floating_point()), None)


def replace_first(value: Any, wanted: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor]) -> tuple[Any, bool]:
    """``value`` rebuilt with ``change`` applied to the first ``wanted`` tensor, and whether there was one.

    The original structure is not modified, since the module that returned it may keep it.
    """
    if isinstance(value, Tensor):
        return (change(value), True) if wanted(value) else (value, False)
    for key, item in _items(value):
        new, found = replace_first(item, wanted, change)
        if found:
            return _with_item(value, key, new), True
    return value, False


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _with_item(value: Any, key: Any, item: Any) -> Any:
    if isinstance(value, tuple):
        items = [*value[:key], item, *value[key + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (list, Mapping)):
        changed: Any = copy.copy(value)
        changed[key] = item
        return changed
    return dataclasses.replace(value, **{key: item})
