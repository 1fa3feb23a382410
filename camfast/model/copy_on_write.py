"""Tensors kept as they are now, copied only where an operation in place is about to change them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CopyOnWrite", "Kept"]


class Kept:
    """One kept tensor: its values at the time it was given to :meth:`CopyOnWrite.keep`."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class CopyOnWrite(TorchDispatchMode):
    """While it is entered, an operation that writes into the memory of a kept tensor finds that it was copied before.

    A layer's output that nobody overwrites is therefore kept without a copy; that of a convolution before an in-place
    ReLU is copied at the last moment. Operations by views and through functions are seen alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, list[Kept]] = {}  # by storage, which the kept tensors hold alive

    def keep(self, tensor: Tensor) -> Kept:
        """``tensor``, without its graph, protected until this mode is left."""
        kept = Kept(tensor.detach())
        self._kept.setdefault(_storage(tensor), []).append(kept)
        return kept

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._kept.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._kept:
            for tensor in _written(func, args, kwargs):
                for kept in self._kept.pop(_storage(tensor), ()):
                    kept.tensor = kept.tensor.clone()
        return func(*args, **kwargs)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors among the arguments that ``func`` writes into."""
    for position, name in _write_arguments(func):
        value = args[position] if position < len(args) else kwargs.get(name)
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                yield tensor


@cache
def _write_arguments(func: Any) -> list[tuple[int, str]]:
    arguments = enumerate(func._schema.arguments)
    return [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]
