"""Classes inside targets: numbers and names, wherever in a target they stand, read along the right axis."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ..model.class_axis import ClassAxis, Classes
from ..targets import Class, Field, Logit, Target, TopK, find_class

__all__ = ["Reader", "kind_of", "rows_of_boxes"]


class Reader:
    """Reads classes out of the scores of one model.

    Args:
        classes: what is known of them.
        names: their names, in the order of the classes.
    """

    def __init__(self, classes: Classes | None = None, names: Sequence[str] | None = None) -> None:
        self.classes = Classes(names) if classes is None else classes
        self.names = names

    def axis(self, scores: Tensor) -> ClassAxis:
        """Where the classes are in ``scores`` ``[N, ...]``."""
        return self.classes.axis(scores)

    def number(self, name: str, axis: ClassAxis) -> int:
        """The class that ``name`` names, of those along ``axis``."""
        number = find_class(name, self.names)
        counts = (axis.classes, axis.classes - axis.nothing)
        if self.names is not None and axis.axis > 0 and len(self.names) not in counts and axis.over != "mean":
            raise ValueError(f"class_names must name each of the {axis.classes} classes, got {len(self.names)} names")
        if number >= axis.classes:
            raise ValueError(f"targets must be classes from 0 to {axis.classes - 1}, got {name!r}, class {number}")
        return number

    def bound(self, target: Any) -> Any:
        """``target`` with every class in it read along the axis of the classes."""
        if isinstance(target, (int, str)):
            return _Bound(self, Class(target), bare=isinstance(target, int))
        if not isinstance(target, Target):
            return target
        if target.of_classes:
            return _Bound(self, target)
        if is_dataclass(target) and "target" in {field.name for field in fields(target)}:
            return replace(target, target=self.bound(target.target))  # type: ignore[attr-defined]
        return target


class _Bound(Target):
    """A target of classes that is given ``[classes]`` of its own image, whatever axes the scores have."""

    def __init__(self, reader: Reader, target: Any, bare: bool = False) -> None:
        self.reader, self.target, self.bare = reader, target, bare

    def __call__(self, scores: Tensor) -> Tensor:
        target = self.target
        whole = scores.unsqueeze(0)
        asked = getattr(target, "axis", None)
        axis = self.reader.axis(whole) if asked is None else self.reader.classes.given(whole, asked)
        if getattr(target, "over", None) is not None:
            axis = axis._replace(over=target.over)
        target = self._numbered(axis)
        if isinstance(target, Class):
            target = Logit(target.category)
        if scores.ndim < 2:
            return target(scores)
        category = getattr(target, "category", getattr(target, "index", 0))
        if self.bare and axis.start:
            raise ValueError(rows_of_boxes(axis, category))
        if category >= axis.classes:
            raise ValueError(f"expected a class from 0 to {axis.classes - 1}, got {category}")
        return target(axis.row(whole, category))

    def _numbered(self, axis: ClassAxis) -> Any:
        """The target with numbers in place of names."""
        number = lambda c: self.reader.number(c, axis) if isinstance(c, str) else c  # noqa: E731
        changes: dict[str, Any] = {}
        if isinstance(getattr(self.target, "category", None), str):
            changes["category"] = number(self.target.category)
        others = getattr(self.target, "others", ())
        if any(isinstance(other, str) for other in others):
            changes["others"] = tuple(map(number, others))
        return replace(self.target, **changes) if changes else self.target


def rows_of_boxes(axis: ClassAxis, number: int) -> str:
    """Why a bare number is no class where the first columns are coordinates."""
    classes = axis.classes
    return (
        f"expected a class's name, or camfast.targets.Class({number}) for class {number} of {classes}, got {number}: the "
        f"scores' first {axis.start} columns are of boxes, so that a number could mean either"
    )


def kind_of(targets: Any) -> Hashable:
    """Equal for targets that read the same part of the output: all classes do, by number or by name."""
    if isinstance(targets, (list, tuple)):
        kinds = tuple(dict.fromkeys(map(kind_of, targets)))
        return kinds[0] if len(kinds) == 1 else kinds
    if isinstance(targets, TopK) or not callable(targets) or getattr(targets, "of_classes", False):
        return "scores"
    if isinstance(targets, functools.partial):
        return kind_of(targets.func)
    if isinstance(targets, Field):
        return "field", targets.name, kind_of(targets.target)
    code = getattr(targets, "__code__", None)
    if code is not None:
        return code  # two lambdas of one name are told apart
    inner = [value for value in getattr(targets, "__dict__", {}).values() if isinstance(value, str) or callable(value)]
    return (type(targets), *(value if isinstance(value, str) else kind_of(value) for value in inner))
