"""What to explain: which score of each image the heatmap belongs to."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .structures import scores_in

__all__ = ["Chosen", "Targets", "TopK", "choose", "scores_of"]

Target = Callable[[Tensor], Tensor]
"""Scores of one image -> the scalar to explain."""


@dataclass(frozen=True)
class TopK:
    """Each image's ``k`` classes of highest score, the highest first."""

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopK expects a positive int, got {self.k!r}")


Targets = int | str | TopK | Tensor | Target | Sequence[Any] | None
"""None, a class, a class name, one of either an image, a tensor ``[N]`` or ``[N, K]``, ``TopK``, callables."""


@dataclass
class Chosen:
    """The targets of one call, and the backward pass they ask for.

    ``targets`` is int64 ``[N]`` or ``[N, K]``, or a list of N callables. ``outputs`` and ``seeds`` are what
    :meth:`camfast.taps.Tap.gradients` takes.
    """

    targets: Tensor | list[Target]
    scores: Tensor

    @property
    def per_image(self) -> int | None:
        """K where K targets an image were asked for, else None."""
        return self.targets.shape[1] if isinstance(self.targets, Tensor) and self.targets.ndim == 2 else None

    def objective(self) -> tuple[Tensor, Tensor | None]:
        """``(outputs, seeds)``: differentiating ``outputs`` along ``seeds`` gives each image's own target gradient.

        Images do not depend on one another, so one backward pass over the sum serves the whole batch. Scores with
        positions, ``[N, classes, *size]`` (segmentation), count by the mean of the class's plane.
        """
        if isinstance(self.targets, Tensor):
            return self.scores, self._seeds(self.targets)
        with torch.enable_grad():
            values = [_scalar(target, scores) for target, scores in zip(self.targets, self.scores, strict=True)]
            return torch.stack(values).sum(), None

    def _seeds(self, ids: Tensor) -> Tensor:
        scores = self.scores
        rows = ids if ids.ndim == 2 else ids.unsqueeze(1)  # [N, K]
        seeds = scores.new_zeros(rows.shape[1], *scores.shape)  # [K, N, classes, *size]
        if scores.ndim == 1:
            seeds.fill_(1)
        else:
            index = rows.t().reshape(*rows.t().shape, *(1,) * (scores.ndim - 1))
            positions = scores.shape[2:].numel()
            seeds.scatter_(2, index.expand(-1, -1, 1, *scores.shape[2:]), 1 / positions)
        return seeds if ids.ndim == 2 else seeds[0]


def scores_of(output: Any, batch: int) -> Tensor:
    """The scores in a model's output: itself, its ``logits`` or ``out``, or its first floating tensor.

    Returns a tensor ``[N, classes]``, ``[N, classes, *size]`` or ``[N]``. Raises ``TypeError`` when there is none, and
    ``ValueError`` when its first dimension is not the batch.
    """
    scores = scores_in(output)
    if scores is None:
        raise TypeError(f"the model must return scores [N, classes], got {type(output).__name__} without float tensors")
    if scores.ndim == 0 or scores.shape[0] != batch:
        raise ValueError(f"the model must return one row of scores an image, [{batch}, ...], got {list(scores.shape)}")
    return scores


def choose(targets: Targets, scores: Tensor, class_names: Sequence[str] | None = None) -> Chosen:
    """Resolves ``targets`` against ``scores`` ``[N, classes, ...]``.

    Raises ``ValueError`` for a class out of range, an unknown name, or a count other than the number of images, and
    ``TypeError`` for anything that is no target.
    """
    batch, classes = scores.shape[0], scores.shape[1] if scores.ndim > 1 else 1
    if targets is None:
        return Chosen(_plane_means(scores).argmax(1), scores)
    if isinstance(targets, TopK):
        if targets.k > classes:
            raise ValueError(f"TopK({targets.k}) needs at least {targets.k} classes, got {classes}")
        return Chosen(_plane_means(scores).topk(targets.k, 1).indices, scores)
    each = _one_an_image(targets, batch)
    if len(each) != batch:
        raise ValueError(f"expected one target an image, {batch}, got {len(each)}")
    if isinstance(each, Sequence) and all(callable(target) for target in each):
        return Chosen(list(each), scores)
    return Chosen(_class_ids(each, classes, class_names).to(scores.device), scores)


def _one_an_image(targets: Any, batch: int) -> Any:
    """A sequence, tensor or array of targets; a single one is meant for every image."""
    if isinstance(targets, Tensor):
        return targets if targets.ndim else targets.expand(batch)
    if isinstance(targets, str) or _is_int(targets) or callable(targets):
        return [targets] * batch
    if not isinstance(targets, Sequence) and not hasattr(targets, "__array__"):
        raise TypeError(f"targets must be classes, names, TopK or callables, got {type(targets).__name__}")
    return targets


def _plane_means(scores: Tensor) -> Tensor:
    """``[N, classes]`` of scores with or without positions."""
    scores = scores.detach()
    if scores.ndim == 1:
        return scores.unsqueeze(1)
    return scores if scores.ndim == 2 else scores.flatten(2).mean(2)


def _class_ids(targets: Any, classes: int, class_names: Sequence[str] | None) -> Tensor:
    ids = targets if isinstance(targets, Tensor) else torch.as_tensor(_without_names(targets, class_names))
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"targets must be integer classes, got {ids.dtype}")
    if ids.ndim > 2 or 0 in ids.shape:
        raise ValueError(f"targets must have shape [N] or [N, K], got {list(ids.shape)}")
    ids = ids.to(torch.int64)
    low, high = ids.min().item(), ids.max().item()
    if low < 0 or high >= classes:
        raise ValueError(f"targets must be classes from 0 to {classes - 1}, got {low if low < 0 else high}")
    return ids


def _without_names(targets: Any, class_names: Sequence[str] | None) -> Any:
    if isinstance(targets, str):
        return _id_of(targets, class_names)
    if isinstance(targets, Sequence):
        rows = [_without_names(target, class_names) for target in targets]
        if len({len(row) if isinstance(row, list) else None for row in rows}) > 1:
            raise ValueError("expected as many targets for each image, got rows of different lengths")
        return rows
    if _is_int(targets):
        return operator.index(targets)
    if hasattr(targets, "__array__"):
        return targets
    raise TypeError(f"targets must be all classes or all callables, got {type(targets).__name__} among them")


def _id_of(name: str, class_names: Sequence[str] | None) -> int:
    if class_names is None:
        raise ValueError(f"class names are not known, got target {name!r}; pass class_names= to the explainer")
    names = list(class_names)
    folded = name.casefold()
    found = [i for i, known in enumerate(names) if known == name]
    found = found or [i for i, known in enumerate(names) if known.casefold() == folded]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"class name {name!r} stands for classes {', '.join(map(str, found))}; give the number")
    close = difflib.get_close_matches(folded, [known.casefold() for known in names], n=3, cutoff=0.5)
    close += [known for known in names if folded in known.casefold()][:3]
    hint = ", ".join(dict.fromkeys(repr(known) for known in names if known.casefold() in [c.casefold() for c in close]))
    raise ValueError(f"unknown class name {name!r}; " + (f"close to it: {hint}" if hint else f"{len(names)} are known"))


def _is_int(value: Any) -> bool:
    if isinstance(value, (bool, Tensor)) or (hasattr(value, "shape") and value.shape != ()):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _scalar(target: Target, scores: Tensor) -> Tensor:
    value = target(scores)
    if not isinstance(value, Tensor):
        raise TypeError(f"a target callable must return a tensor, got {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(f"a target callable must return one scalar, got shape {list(value.shape)}")
    if not value.requires_grad:
        raise ValueError("a target callable must return a differentiable function of the scores, got a tensor cut off")
    return value.reshape(())
