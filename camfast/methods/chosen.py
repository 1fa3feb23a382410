"""What to explain: which score of each image the heatmap belongs to."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.outputs import detections_in, row_of, scores_of
from ..model.precision import wide
from ..targets import ALL, Logit, Policy, Scalar, Targets, TopK, value_of

__all__ = ["Chosen", "choose", "count_per_image"]


@dataclass
class Chosen:
    """The targets of one call, and the backward pass they ask for.

    ``targets`` is int64 ``[N]`` or ``[N, K]``, or a list of N callables, or of N lists of K. ``outputs`` and ``seeds``
    are what :meth:`camfast.model.tap.Tap.gradients` takes. ``output`` is all that the model returned.
    """

    targets: Tensor | list[Any]
    scores: Tensor
    output: Any = None
    everything: bool = False  # every class of each image, in the order of the scores

    @property
    def per_image(self) -> int | None:
        """K where K targets an image were asked for, else None."""
        return count_per_image(self.targets)

    def column(self, k: int) -> Chosen:
        """The ``k``-th target of each image alone, where K were asked for."""
        targets = self.targets[:, k] if isinstance(self.targets, Tensor) else [row[k] for row in self.targets]
        return Chosen(targets, self.scores, self.output)

    def after(self, output: Any) -> Chosen:
        """The same targets, of another output for the same batch."""
        return Chosen(self.targets, scores_of(output, len(self.targets)), output)

    def values(self, index: int, output: Any, count: int) -> Tensor:
        """What image ``index``'s targets make of ``output``, the model's for ``count`` changed copies of that image.

        ``[count]``, or ``[count, K]`` for K targets an image; fp32, or fp64 for fp64. Raises ``TypeError`` and
        ``ValueError`` for a callable that returns no scalar tensor.
        """
        if isinstance(self.targets, Tensor):
            return _of_classes(wide(scores_of(output, count).detach()), self.targets[index])
        targets, rows = self.targets[index], []
        for copy in range(count):
            row = [_scalar(target, output, copy, count) for target in (targets if _nested(targets) else [targets])]
            rows.append(torch.stack([value.detach() for value in row]))
        found = wide(torch.stack(rows))
        return found if _nested(targets) else found[:, 0]

    def part(self, start: int, end: int) -> Chosen:
        """The same with some of the K targets of each image."""
        targets = self.targets
        own = targets[:, start:end] if isinstance(targets, Tensor) else [row[start:end] for row in targets]
        return Chosen(own, self.scores, self.output)

    def objective(self) -> tuple[Tensor, Tensor | None]:
        """``(outputs, seeds)``: differentiating ``outputs`` along ``seeds`` gives each image's own target gradient.

        Images do not depend on one another, so one backward pass over the sum serves the whole batch. Scores with
        positions, ``[N, classes, *size]`` (segmentation), count by the mean of the class's plane.
        """
        if isinstance(self.targets, Tensor):
            return self.scores, self._seeds(self.targets)
        output, batch = self.scores if self.output is None else self.output, len(self.targets)
        columns = zip(*self.targets, strict=True) if self.per_image else [self.targets]
        with torch.enable_grad():
            totals = []
            for column in columns:
                values = [_scalar(target, output, i, batch) for i, target in enumerate(column)]
                cut = next((v for v in values if not v.requires_grad), None)
                if cut is not None:
                    raise ValueError(
                        "a target callable must return a differentiable function of the scores, got a tensor cut off"
                    )
                totals.append(torch.stack(values).sum())
            if self.per_image is None:
                return totals[0], None
            return torch.stack(totals), torch.eye(len(totals), dtype=totals[0].dtype, device=totals[0].device)

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


def count_per_image(targets: Tensor | list[Any]) -> int | None:
    """K for the targets of K an image, ``[N, K]`` or N lists of K callables; None where there is one an image."""
    if isinstance(targets, Tensor):
        return targets.shape[1] if targets.ndim == 2 else None
    return len(targets[0]) if targets and _nested(targets[0]) else None


def choose(targets: Targets, scores: Tensor, class_names: Sequence[str] | None = None, output: Any = None) -> Chosen:
    """Resolves ``targets`` against ``scores`` ``[N, classes, ...]``; ``output`` is all that the model returned.

    Raises ``ValueError`` for a class out of range, an unknown name, or a count other than the number of images, and
    ``TypeError`` for anything that is no target.
    """
    batch, classes = scores.shape[0], scores.shape[1] if scores.ndim > 1 else 1
    if targets is None:
        return Chosen(_plane_means(scores).argmax(1), scores, output)
    if isinstance(targets, str) and targets == ALL:
        ids = torch.arange(classes, device=scores.device).expand(batch, -1)
        return Chosen(ids, scores, output, everything=True)
    if isinstance(targets, TopK):
        if targets.k > classes:
            raise ValueError(f"TopK({targets.k}) needs at least {targets.k} classes, got {classes}")
        return Chosen(_plane_means(scores).topk(targets.k, 1).indices, scores, output)
    if isinstance(targets, Policy):
        return Chosen(targets.pick(_plane_means(scores)), scores, output)
    each = _one_an_image(targets, batch)
    if len(each) != batch:
        raise ValueError(f"expected one target an image, {batch}, got {len(each)}")
    if isinstance(each, Sequence) and _any_callable(each):
        return Chosen(_callables(each, classes, class_names), scores, output)
    return Chosen(_class_ids(each, classes, class_names).to(scores.device), scores, output)


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


def _nested(targets: Any) -> bool:
    return isinstance(targets, (list, tuple))


def _any_callable(targets: Sequence[Any]) -> bool:
    return any(_any_callable(target) if _nested(target) else callable(target) for target in targets)


def _callables(targets: Sequence[Any], classes: int, class_names: Sequence[str] | None) -> list[Any]:
    """N targets, or N lists of K; classes among callables become callables as well."""
    rows = [list(target) if _nested(target) else [target] for target in targets]
    if len({(len(row), _nested(target)) for row, target in zip(rows, targets, strict=True)}) > 1 or not rows[0]:
        raise ValueError("expected as many targets for each image, got rows of different lengths")
    found = [[t if callable(t) else Logit(int(_class_ids([t], classes, class_names)[0])) for t in row] for row in rows]
    return found if _nested(targets[0]) else [row[0] for row in found]


def _scalar(target: Scalar, output: Any, index: int, batch: int) -> Tensor:
    """What ``target`` makes of the ``index``-th of ``batch`` images, a scalar tensor."""
    whole = getattr(target, "whole_output", False)
    row = row_of(output, index, batch) if whole else _row_of_scores(output, index, batch)
    value = value_of(target, row)
    if not isinstance(value, Tensor):
        raise TypeError(f"a target callable must return a tensor, got {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(f"a target callable must return one scalar, got shape {list(value.shape)}")
    return value.reshape(())


def _row_of_scores(output: Any, index: int, batch: int) -> Any:
    """One image's scores; of a detector, all that it said of the image."""
    detections = detections_in(output, batch)
    return scores_of(output, batch)[index] if detections is None else detections[index]


def _of_classes(scores: Tensor, ids: Tensor) -> Tensor:
    """``[B]`` for one class ``ids`` ``[]`` of ``scores`` ``[B, classes, ...]``, ``[B, K]`` for K of them."""
    if scores.ndim == 1:
        return scores if ids.ndim == 0 else scores.unsqueeze(1).expand(-1, len(ids))
    planes = scores if scores.ndim == 2 else scores.flatten(2).mean(2)
    missing = int(ids.max()) + 1 - planes.shape[1]
    if missing > 0:  # a changed image in which a detector finds less
        planes = F.pad(planes, (0, missing))
    return planes[:, ids]
