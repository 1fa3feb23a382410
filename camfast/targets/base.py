"""What every target is: a callable that makes the scalar to explain of one image's part of the output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..brief import Brief
from ..model.outputs import described, field_of, scores_in

__all__ = ["ALL", "Field", "Policy", "Scalar", "Target", "Targets", "TopK", "class_score", "value_of"]


ALL = "all"
"""As a target: every class, in the order of the scores."""


Scalar = Callable[[Any], Tensor]
"""Scores of one image -> the scalar to explain."""


@dataclass(frozen=True)
class TopK:
    """Each image's ``k`` classes of highest score, the highest first."""

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"TopK expects a positive int, got {self.k!r}")


class Policy:
    """Chooses the classes from the scores of every pass; a subclass may remember what it chose before."""

    def pick(self, scores: Tensor) -> Tensor:
        """Class numbers, int64 ``[N]`` or ``[N, K]``, of scores ``[N, classes]``, on their device."""
        raise NotImplementedError


Targets = int | str | TopK | Policy | Tensor | Scalar | Sequence[Any] | None
"""None, a class, a class name, a callable; one of these an image, or K an image; a tensor ``[N]``, ``[N, K]``; ``TopK``; "all"."""


class Target(Brief):
    """Base of the targets here; any callable of the same form serves as well.

    ``whole_output`` says what a target is called with: False, the image's scores ``[classes, ...]``; True, the image's
    part of whatever the model returned, such as a detector's dict of boxes, labels and scores. ``of_classes`` targets
    are called with ``[classes]``, whichever axes the scores have besides.
    """

    whole_output: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False

    def __call__(self, scores: Any) -> Tensor:
        """The scalar to explain, a differentiable function of ``scores``."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Field(Target):
    """Another target, of one field of the model's output: a key, an attribute or a position.

    ``Field("image_embeds", Similarity(text))`` explains what in an image is near a text; ``Field(1, 5)`` is class 5 of
    the second tensor that the model returns; ``Field("head", Field("logits", "cat"))`` looks into a nested output.
    """

    name: str | int
    target: Target | Callable[[Tensor], Tensor] | int | str
    whole_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, (str, int)) or isinstance(self.name, bool):
            raise TypeError(f"Field expects a key, an attribute or a position, got {type(self.name).__name__}")
        inner_target(self)

    def __call__(self, output: Any) -> Tensor:
        part = field_of(output, self.name)
        if part is None:
            raise ValueError(f"expected an output with the field {self.name!r}, got {described(output)}")
        return value_of(self.target, part)


def value_of(target: Any, output: Any) -> Tensor:
    """What ``target``, a class or a callable, makes of one image's ``output``: its scores, or all there is.

    Users' own callables get all that a detector said of the image, since that is what they are written for.
    """
    detected = isinstance(output, Mapping) and {"boxes", "scores"} <= set(output)
    if getattr(target, "whole_output", detected and callable(target) and not isinstance(target, Target)):
        return target(output)
    scores = output if isinstance(output, Tensor) else output["scores"] if detected else scores_in(output)
    if scores is None:
        raise TypeError(f"{target!r} needs scores, a float tensor, got {described(output)}")
    return target(scores) if callable(target) else class_score(scores, target)


def class_score(scores: Tensor, category: int | str) -> Tensor:
    """The score of one class, of one image's scores ``[classes]``; of a plane ``[classes, *size]`` its mean."""
    if isinstance(category, str):
        raise ValueError(f"expected the number of a class, since no class names are known here, got {category!r}")
    if scores.ndim == 0 and category == 0:
        return scores
    classes = len(scores) if scores.ndim else 1
    if not 0 <= category < classes:
        raise ValueError(f"expected a class from 0 to {classes - 1}, got {category}")
    return scores[category] if scores.ndim == 1 else scores[category].mean()


# Arguments, checked when a target is made


def class_number(target: Any, field: str, names: bool = True) -> None:
    """Checks that ``field`` of ``target`` is a class: a number from 0 on, or with ``names`` a name."""
    value = getattr(target, field)
    if names and isinstance(value, str):
        return
    object.__setattr__(target, field, whole_number(value, type(target).__name__, "the number or name of a class"))


def whole_number(value: Any, owner: str, what: str) -> int:
    """``value`` as an int from 0 on."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner} expects {what}, got {type(value).__name__}") from None
    if number < 0:
        raise ValueError(f"{owner} expects {what}, from 0 on, got {number}")
    return number


def inner_target(target: Any) -> None:
    """Checks that ``target.target`` is a class or a callable."""
    inner = target.target
    if not callable(inner) and not isinstance(inner, str):
        object.__setattr__(
            target, "target", whole_number(inner, type(target).__name__, "a class, its name or a callable")
        )
