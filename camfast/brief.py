"""Reprs that fit on a line: tensors by dtype and shape, modules by their class, long lists by their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["Brief", "brief", "few"]

_SOME = 3  # of a list's or a mapping's entries
_LETTERS = 60  # of a string


class Brief:
    """Gives a dataclass, made with ``repr=False``, a repr of one line that never prints what a tensor holds."""

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.repr and not (value is None and field.default is None):
                shown.append(f"{field.name}={brief(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """``value`` in a few words: ``float32 [2, 10] on cuda:0``, ``ResNet``, ``['a', 'b', 'c', ... 300 in all]``."""
    import torch

    if hasattr(value, "dtype") and hasattr(value, "shape"):  # a tensor or an array
        dtype, device = str(value.dtype).removeprefix("torch."), getattr(value, "device", "cpu")
        return f"{dtype} {list(value.shape)}" + ("" if str(device) == "cpu" else f" on {device}")
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    if isinstance(value, str):
        return repr(value if len(value) <= _LETTERS else value[: _LETTERS - 1] + "…")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return f"{{{few([f'{key!r}: {brief(entry)}' for key, entry in list(value.items())[:_SOME]], len(value))}}}"
    if hasattr(value, "_fields"):  # a named tuple
        entries = [f"{name}={brief(entry)}" for name, entry in zip(value._fields, value, strict=True)]
        return f"{type(value).__name__}({', '.join(entries)})"
    if isinstance(value, (list, tuple)):
        inside = few([brief(entry) for entry in value[:_SOME]], len(value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def few(words: list[str], count: int) -> str:
    """The first ``words`` of ``count``, with commas, and how many there are where these are not all."""
    return ", ".join(words[:_SOME]) + (f", ... {count} in all" if count > _SOME else "")
