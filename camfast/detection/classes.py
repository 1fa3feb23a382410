"""Classes of a detector by number and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..targets import find_class
from ..targets.names import ClassNames

__all__ = ["Wanted", "as_mapping", "count_of", "name_of", "names_of", "numbers_of"]

Wanted = int | str | Sequence[int | str] | None
"""A class, or several, each a number or a name; None: every class."""


def names_of(model: nn.Module) -> dict[int, str] | None:
    """What the model itself calls its classes, by number: ``names``, or ``id2label`` of its configuration."""
    for holder in (model, getattr(model, "config", None)):
        for attribute in ("names", "class_names", "id2label"):
            found = getattr(holder, attribute, None)
            if isinstance(found, Mapping) and found:
                return {int(key): str(value) for key, value in found.items()}
            if isinstance(found, (list, tuple)) and found and all(isinstance(name, str) for name in found):
                return dict(enumerate(found))
    return None


def count_of(model: nn.Module, names: Mapping[int, str] | None) -> int | None:
    """How many classes the detector knows, where names or the model tell."""
    if names:
        return max(names) + 1
    for holder in (model, getattr(model, "config", None)):
        for attribute in ("num_classes", "nc", "num_labels"):
            found = getattr(holder, attribute, None)
            if isinstance(found, int) and found > 0:
                return found
    return None


def as_mapping(names: ClassNames | None) -> dict[int, str] | None:
    """Names by number."""
    if names is None:
        return None
    return {int(k): v for k, v in names.items()} if isinstance(names, Mapping) else dict(enumerate(names))


def numbers_of(wanted: Wanted, names: Mapping[int, str] | None, count: int | None) -> list[int] | None:
    """The numbers of the classes that are asked for, of ``count`` where that is known.

    Raises ``ValueError`` for a name that no class has, with those that are close to it, and for a number out of range.
    """
    if wanted is None:
        return None
    listed: list[Any] = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
    whole = None if names is None else [names.get(number, "") for number in range(max(names) + 1)]
    numbers = [find_class(one, whole) if isinstance(one, str) else int(one) for one in listed]
    last = max(names) if names else count  # which may count a background or not
    for number in numbers:
        if number < 0 or (last is not None and number > last):
            known = f"from 0 to {last}" if last is not None else "from 0 on"
            raise ValueError(f"classes must be numbers {known}, or names, got {number}")
    return numbers


def name_of(label: int, names: Mapping[int, str] | None) -> str:
    """A class's name, or else its number."""
    return names[label] if names is not None and label in names else str(label)
