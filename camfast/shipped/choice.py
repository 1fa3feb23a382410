"""Which classes a file explains, chosen from the scores by plain operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.class_axis import ClassAxis
from ..targets import ALL, ClassNames, Targets, TopK, find_class, listed_names

__all__ = ["Choice", "choice_of", "columns_of"]


@dataclass(frozen=True)
class Choice:
    """Classes of each image.

    Attributes:
        kind: "best" is each image's class of highest score, "top" its k best, "one" a class for all images, "each" a class
            (or K classes) for each of a fixed number of images, "all" every class.
        number: k, or the class.
        given: of "each", int64 ``[N]`` or ``[N, K]``.
    """

    kind: Literal["best", "top", "one", "each", "all"]
    number: int = 0
    given: tuple[Any, ...] = ()

    @property
    def several(self) -> bool:
        """Whether an image has a dimension of maps: ``[N, K, H, W]``."""
        return self.kind in ("top", "all") or (self.kind == "each" and isinstance(self.given[0], tuple))

    @property
    def batch(self) -> int | None:
        """The number of images that it is for; None for any."""
        return len(self.given) if self.kind == "each" else None

    def count(self, classes: int) -> int | None:
        """K, the maps of an image; None for a lone one."""
        if self.kind == "each" and self.several:
            return len(self.given[0])
        return {"top": self.number, "all": classes}.get(self.kind)

    def ids(self, columns: Tensor) -> Tensor:
        """Class numbers ``[N]`` or ``[N, K]``, of scores ``[N, classes]``."""
        if self.kind == "best":
            return columns.argmax(1)
        if self.kind == "top":
            return columns.topk(self.number, 1)[1]
        if self.kind == "one":
            return columns.new_full((columns.shape[0],), self.number, dtype=torch.int64)
        if self.kind == "each":
            return torch.tensor(self.given, dtype=torch.int64, device=columns.device)
        return torch.arange(columns.shape[1], device=columns.device).expand(columns.shape[0], -1)

    def of(self, columns: Tensor) -> Tensor:
        """The columns ``[N, classes]`` of the chosen classes alone: ``[N]`` or ``[N, K]``."""
        if self.kind == "all":
            return columns
        ids = self.ids(columns)
        return columns.gather(1, ids) if self.several else columns.gather(1, ids.unsqueeze(1)).squeeze(1)

    def rows(self, weight: Tensor, columns: Tensor) -> Tensor:
        """The rows of ``weight`` ``[classes, C]`` of the chosen classes: ``[N, C]`` or ``[N, K, C]``, N = 1 where all are alike."""
        if self.kind == "all":
            return weight.unsqueeze(0)
        if self.kind == "one":
            return weight[self.number].unsqueeze(0)
        return weight[self.ids(columns)]


def columns_of(axis: ClassAxis, scores: Tensor) -> Tensor:
    """``[N, classes]``: each class's score, over the other axes of scores ``[N, ...]``."""
    return scores if scores.ndim == 2 and axis.axis == 1 else axis.read(scores)


def choice_of(targets: Targets, axis: ClassAxis, class_names: ClassNames | None = None) -> Choice:
    """What ``targets`` choose, checked against the classes that there are.

    Raises:
        TypeError: for what is no class: callables run in Python, which no file holds.
        ValueError: for a class that there is not.
    """
    classes = axis.classes
    names = listed_names(class_names)
    if targets is None:
        return Choice("best")
    if isinstance(targets, str) and targets == ALL:
        return Choice("all")
    if isinstance(targets, TopK):
        if targets.k > classes:
            raise ValueError(f"TopK({targets.k}) needs at least {targets.k} classes, got {classes}")
        return Choice("top", targets.k)
    given = targets.tolist() if hasattr(targets, "tolist") else targets
    if not isinstance(given, (list, tuple)):
        return Choice("one", _number(given, classes, names))
    if not given:
        raise ValueError("targets must be one class an image, got an empty list")
    rows = [isinstance(row, (list, tuple)) for row in given]
    if any(rows) and (not all(rows) or len({len(row) for row in given}) > 1 or not given[0]):  # type: ignore[arg-type]
        raise ValueError("expected as many targets for each image, got rows of different lengths")
    if all(rows):
        return Choice("each", given=tuple(tuple(_number(c, classes, names) for c in row) for row in given))
    return Choice("each", given=tuple(_number(c, classes, names) for c in given))


def _number(target: Any, classes: int, names: Any) -> int:
    if callable(target) or not isinstance(target, (int, str)) or isinstance(target, bool):
        kind = getattr(target, "__name__", type(target).__name__)
        raise TypeError(
            f"targets of a file must be classes, TopK or 'all', got {kind}, which runs in Python; explain it with "
            "camfast.grad_cam"
        )
    number = find_class(target, names) if isinstance(target, str) else target
    if not 0 <= number < classes:
        raise ValueError(f"targets must be classes from 0 to {classes - 1}, got {target!r}")
    return number
