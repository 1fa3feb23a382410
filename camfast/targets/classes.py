"""Targets of classifiers and regressors: scalars of one image's scores ``[classes]``.

Scores with positions, ``[classes, *size]``, count by the mean of each class's plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .target import Target, class_score, value_of

__all__ = ["Binary", "Contrast", "LogOdds", "Logit", "Negative", "Probability", "ReST", "Value"]


@dataclass(frozen=True)
class Logit(Target):
    """A class's score as the model gives it: the same as the class's number."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(scores, self.category)


@dataclass(frozen=True)
class Probability(Target):
    """A class's softmax probability, which also falls when other classes rise. Its gradient fades as it nears 1."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(_classes(scores).softmax(0), self.category)


@dataclass(frozen=True)
class LogOdds(Target):
    """Log-odds of a class, ``log(p / (1 - p))``: its score less the log of the summed exponentials of the others."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        own = class_score(scores, self.category)
        others = scores[[i for i in range(len(scores)) if i != self.category]]
        if len(others) == 0:
            raise ValueError("LogOdds needs at least two classes, got one; use Binary")
        return own - others.logsumexp(0)


@dataclass(frozen=True)
class ReST(Target):
    """A class's score plus its log-probability (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    category: int

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

    def __call__(self, scores: Tensor) -> Tensor:
        value = class_score(scores, self.index)
        return value if self.positive else -value


@dataclass(frozen=True)
class Value(Target):
    """One number of a regression, or of any output: its element ``index`` in row-major order."""

    index: int = 0

    def __call__(self, scores: Tensor) -> Tensor:
        if not 0 <= self.index < scores.numel():
            raise ValueError(f"expected an index from 0 to {scores.numel() - 1}, got {self.index}")
        return scores.reshape(-1)[self.index]


@dataclass(frozen=True)
class Negative(Target):
    """Another target with its sign turned: the counterfactual, what in the image speaks against a class.

    ``target`` is a class or any target (Selvaraju 2017, section 7).
    """

    target: Target | Callable[[Any], Tensor] | int

    @property
    def whole_output(self) -> bool:  # type: ignore[override]
        return getattr(self.target, "whole_output", False)

    def __call__(self, scores: Any) -> Tensor:
        return -value_of(self.target, scores)


@dataclass(frozen=True)
class Contrast(Target):
    """A class against others: ``sum_k p_k (y_n - alpha * y_k) / (sum_k p_k + 1e-9)`` (Zhang 2025, https://arxiv.org/abs/2501.11309).

    ``others`` are the classes k, ``p`` the softmax probabilities. ``FinerCAM`` chooses the others by itself.
    """

    category: int
    others: Sequence[int]
    alpha: float = 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        if not self.others:
            raise ValueError("Contrast needs at least one class to compare with, got none")
        own, probabilities = class_score(scores, self.category), scores.softmax(0)
        shares = [class_score(probabilities, other) for other in self.others]
        differences = [own - self.alpha * class_score(scores, other) for other in self.others]
        total = sum(share * difference for share, difference in zip(shares, differences, strict=True))
        return total / (sum(shares) + 1e-9)  # type: ignore[return-value]


def _classes(scores: Tensor) -> Tensor:
    """``[classes]``, in fp32 at least: exponentials overflow in half precision."""
    scores = scores if scores.ndim < 2 else scores.flatten(1).mean(1)
    return scores.float() if scores.element_size() < 4 else scores
