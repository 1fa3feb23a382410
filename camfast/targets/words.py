"""What a target is called below a picture: short, and with class names where they are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import Target
from .classes import Logit

__all__ = ["in_words"]

_CLASSES = ("category", "others", "target")  # fields that hold classes, or targets of these
_LONGEST = 60  # letters; what would be longer is called by its kind alone


def in_words(target: Any, class_names: Sequence[str] | None = None) -> str:
    """A class by its name, or else its number; ``Contrast("four", "nine")`` as ``Contrast(four, nine)``; a callable's name."""
    if isinstance(target, Logit):
        return in_words(target.category, class_names)
    if isinstance(target, Target) and dataclasses.is_dataclass(target):
        given = []
        for field in dataclasses.fields(target):
            value = getattr(target, field.name)
            if isinstance(value, Tensor):
                return type(target).__name__
            required = field.default is dataclasses.MISSING
            if required or value != field.default:
                words = _classes(value, class_names) if field.name in _CLASSES else repr(value)
                given.append(words if required else f"{field.name}={words}")
        whole = f"{type(target).__name__}({', '.join(given)})"
        return whole if len(whole) <= _LONGEST else type(target).__name__
    if callable(target):
        return getattr(target, "__name__", type(target).__name__)
    if isinstance(target, str):
        return target
    number = int(target)
    return str(class_names[number]) if class_names is not None and 0 <= number < len(class_names) else str(number)


def _classes(value: Any, class_names: Sequence[str] | None) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(one, class_names) for one in value)
    return in_words(value, class_names)
