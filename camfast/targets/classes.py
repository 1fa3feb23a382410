"""Targets of classes and of single numbers: scalars of one image's scores ``[classes]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..model.class_axis import ClassAxis, Over
from .base import Target, class_number, class_score, inner_target, value_of, whole_number

__all__ = ["Binary", "Class", "Contrast", "LogOdds", "Logit", "Negative", "Over", "Probability", "ReST", "Value"]


class ClassTarget(Target):
    """Base of targets that read ``[classes]`` of one image, for the class ``category``, a number or a name."""

    of_classes: ClassVar[bool] = True
    category: int | str

    def __post_init__(self) -> None:
        class_number(self, "category")


@dataclass(frozen=True)
class Class(ClassTarget):
    """A class's score where the scores have further axes: queries, words, time steps, anchors, positions.

    ``Class("cat")`` alone is the same as the name. ``Class("cat", axis=-1, over=3)`` is the class's score in the fourth
    query of a detector that returns ``[N, queries, classes]``.

    Args:
        category: the class's number or name.
        axis: where the classes are in the model's scores ``[N, ...]``, of which 0 is the images' axis; None: found out
            from the number of class names, from what the model says of its classes, or by a pass over one image.
        over: ``"best"``, the place where the class scores highest; ``"sum"`` or ``"mean"`` over the places; or the
            index of one (a tuple, where there are several more axes). None: the mean for positions of the image, as
            of segmentation, else the best.
    """

    category: int | str
    axis: int | None = None
    over: Over | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis is not None and (not isinstance(self.axis, int) or isinstance(self.axis, bool) or self.axis == 0):
            raise ValueError(
                f"Class expects the axis of the classes, such as 1 or -1 (0 is the images'), got {self.axis!r}"
            )
        places = self.over if isinstance(self.over, tuple) else (self.over,)
        index = all(isinstance(place, int) and not isinstance(place, bool) for place in places) and places
        if not index and self.over not in (None, "best", "sum", "mean"):
            raise ValueError(f"over must be 'best', 'sum', 'mean', an index or a tuple of indices, got {self.over!r}")

    def __call__(self, scores: Tensor) -> Tensor:
        if scores.ndim < 2 or (self.axis is None and self.over is None):
            return class_score(scores, self.category)
        whole = scores.unsqueeze(0)
        axis = (1 if self.axis is None else self.axis) % whole.ndim
        found = ClassAxis(axis, 0, whole.shape[axis], "best" if self.over is None else self.over)
        return class_score(found.read(whole)[0], self.category)


@dataclass(frozen=True)
class Logit(ClassTarget):
    """A class's score as the model gives it: the same as the class's number."""

    category: int | str

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(scores, self.category)


@dataclass(frozen=True)
class Probability(ClassTarget):
    """A class's softmax probability, which also falls when other classes rise. Its gradient fades as it nears 1."""

    category: int | str

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(_classes(scores).softmax(0), self.category)


@dataclass(frozen=True)
class LogOdds(ClassTarget):
    """Log-odds of a class, ``log(p / (1 - p))``: its score less the log of the summed exponentials of the others."""

    category: int | str

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        own = class_score(scores, self.category)
        others = scores[[i for i in range(len(scores)) if i != self.category]]
        if len(others) == 0:
            raise ValueError("LogOdds needs at least two classes, got one; use Binary")
        return own - others.logsumexp(0)


@dataclass(frozen=True)
class ReST(ClassTarget):
    """A class's score plus its log-probability (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    category: int | str

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        return class_score(scores, self.category) + class_score(scores.log_softmax(0), self.category)


@dataclass(frozen=True)
class Binary(Target):
    """The one score of a binary classifier: what speaks for the positive class, or against it.

    ``index`` chooses among several such scores (multi-label).
    """

    positive: bool = True
    index: int = 0
    of_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.positive, bool):
            raise TypeError(f"Binary expects positive to be a bool, got {type(self.positive).__name__}")
        object.__setattr__(self, "index", whole_number(self.index, "Binary", "the index of a score"))

    def __call__(self, scores: Tensor) -> Tensor:
        value = class_score(scores, self.index)
        return value if self.positive else -value


@dataclass(frozen=True)
class Value(Target):
    """One number of a regression, or of any output: its element ``index`` in row-major order."""

    index: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", whole_number(self.index, "Value", "the index of a number"))

    def __call__(self, scores: Tensor) -> Tensor:
        if not 0 <= self.index < scores.numel():
            raise ValueError(f"expected an index from 0 to {scores.numel() - 1}, got {self.index}")
        return scores.reshape(-1)[self.index]


@dataclass(frozen=True)
class Negative(Target):
    """Another target with its sign turned: the counterfactual, what in the image speaks against a class.

    ``target`` is a class or any target (Selvaraju 2017, section 7).
    """

    target: Target | Callable[[Any], Tensor] | int | str

    def __post_init__(self) -> None:
        inner_target(self)

    @property
    def whole_output(self) -> bool:  # type: ignore[override]
        return getattr(self.target, "whole_output", False)

    def __call__(self, scores: Any) -> Tensor:
        return -value_of(self.target, scores)


@dataclass(frozen=True)
class Contrast(ClassTarget):
    """A class against others: ``sum_k p_k (y_n - alpha * y_k) / (sum_k p_k + 1e-9)`` (Zhang 2025, https://arxiv.org/abs/2501.11309).

    ``others`` are the classes k, one or several, ``p`` the softmax probabilities. ``FinerCAM`` chooses the others by
    itself.
    """

    category: int | str
    others: Sequence[int | str] | int | str
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.others.tolist() if isinstance(self.others, Tensor) else self.others
        listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if not listed:
            raise ValueError("Contrast needs at least one class to compare with, got none")
        what = "classes to compare with, numbers or names"
        numbers = tuple(other if isinstance(other, str) else whole_number(other, "Contrast", what) for other in listed)
        object.__setattr__(self, "others", numbers)
        if not isinstance(self.alpha, (int, float)) or not math.isfinite(self.alpha):
            raise ValueError(f"Contrast expects alpha to be a finite number, got {self.alpha!r}")

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        own, probabilities = class_score(scores, self.category), scores.softmax(0)
        shares = [class_score(probabilities, other) for other in self.others]  # type: ignore[union-attr]
        differences = [own - self.alpha * class_score(scores, other) for other in self.others]  # type: ignore[union-attr]
        total = sum(share * difference for share, difference in zip(shares, differences, strict=True))
        return total / (sum(shares) + 1e-9)  # type: ignore[return-value]


def _classes(scores: Tensor) -> Tensor:
    """``[classes]``, in fp32 at least: exponentials overflow in half precision."""
    scores = scores if scores.ndim < 2 else scores.flatten(1).mean(1)
    return scores.float() if scores.element_size() < 4 else scores
