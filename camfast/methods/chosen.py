"""What to explain: which score of each image the heatmap belongs to."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..brief import Brief
from ..errors import NothingFound
from ..model.class_axis import ClassAxis, Classes
from ..model.outputs import detections_in, field_of, found_nothing, row_of, rows_in, scores_of
from ..model.precision import wide
from ..targets import (
    ALL,
    Class,
    ClassNames,
    Field,
    Logit,
    Policy,
    Probability,
    Scalar,
    Targets,
    TopK,
    listed_names,
    value_of,
)
from .reading import Reader, kind_of, rows_of_boxes

__all__ = ["Chosen", "Columns", "choose", "class_columns", "count_per_image", "has_callables", "scores_for"]


class Columns(NamedTuple):
    """As targets: columns of the scores that are known to be there, and not looked at."""

    ids: Tensor  # int64 [N] or [N, K]


@dataclass(repr=False)
class Chosen(Brief):
    """The targets of one call, and the backward pass they ask for.

    ``targets`` is int64 ``[N]`` or ``[N, K]``, or a list of N callables, or of N lists of K. ``outputs`` and ``seeds``
    are what :meth:`camfast.model.tap.Tap.gradients` takes. ``output`` is all that the model returned.
    """

    targets: Tensor | list[Any]
    scores: Tensor
    output: Any = None
    everything: bool = False  # every class of each image, in the order of the scores
    axis: ClassAxis | None = None  # of the classes in the scores; None: not needed by the targets
    reader: Reader = field(default_factory=Reader, repr=False)  # of classes inside callables
    class_names: Sequence[str] | None = None  # by the numbers in ``targets``

    @property
    def kind(self) -> Hashable:
        """Equal for targets that read the same part of the output; a layer found for one serves the others."""
        return kind_of(self.targets)

    @property
    def per_image(self) -> int | None:
        """K where K targets an image were asked for, else None."""
        return count_per_image(self.targets)

    def column(self, k: int) -> Chosen:
        """The ``k``-th target of each image alone, where K were asked for."""
        targets = self.targets[:, k] if isinstance(self.targets, Tensor) else [row[k] for row in self.targets]
        return replace(self, targets=targets, everything=False)

    def after(self, output: Any) -> Chosen:
        """The same targets, of another output for the same batch."""
        return replace(self, scores=scores_for(self.targets, output, len(self.targets)), output=output)

    def softmax(self, output: Any, count: int, callables: bool = False) -> Any:
        """``output`` for ``count`` images with probabilities in place of scores, for ``callables`` only where asked for."""
        if not callables and not isinstance(self.targets, Tensor):
            return output
        scores = scores_of(output, count)
        return output if scores.ndim < 2 else self._axis(scores).softmax(wide(scores.detach()))

    def of_probabilities(self) -> Chosen:
        """The same, with the probability of a class wherever a target is a class in a field of the output."""
        if isinstance(self.targets, Tensor):
            return self  # see softmax()
        targets = [[_probability(t) for t in row] if _nested(row) else _probability(row) for row in self.targets]
        return replace(self, targets=targets)

    def values(self, index: int, output: Any, count: int) -> Tensor:
        """What image ``index``'s targets make of ``output``, the model's for ``count`` changed copies of that image.

        ``[count]``, or ``[count, K]`` for K targets an image; fp32, or fp64 for fp64. Raises ``TypeError`` and
        ``ValueError`` for a callable that returns no scalar tensor.
        """
        if isinstance(self.targets, Tensor):
            scores = scores_of(output, count)
            return _of_classes(self._axis(scores).read(wide(scores.detach())), self.targets[index])
        targets, rows = self.targets[index], []
        for copy in range(count):
            row = [
                _scalar(self.reader.bound(target), output, copy, count)
                for target in (targets if _nested(targets) else [targets])
            ]
            rows.append(torch.stack([value.detach() for value in row]))
        found = wide(torch.stack(rows))
        return found if _nested(targets) else found[:, 0]

    def values_of(self, images: Tensor, columns: Tensor, output: Any) -> Tensor:
        """What target ``columns[i]`` (of K) of image ``images[i]`` makes of row i of ``output``: ``[B]`` in fp32, or fp64.

        Both are int64 ``[B]``, for the model's output for B images, changed ones of any of the call's. Raises as :meth:`values`.
        """
        many, count = self.per_image is not None, len(images)
        if isinstance(self.targets, Tensor):
            scores = scores_of(output, count)
            found = self._axis(scores).read(wide(scores.detach()))
            ids = self.targets[images, columns] if many else self.targets[images]
            return _of_classes(found, ids.to(found.device).unsqueeze(1), paired=True)[:, 0]
        pairs = zip(images.tolist(), columns.tolist(), strict=True)
        own = [self.targets[i][k] if many else self.targets[i] for i, k in pairs]
        values = [_scalar(self.reader.bound(target), output, copy, count).detach() for copy, target in enumerate(own)]
        return wide(torch.stack(values))

    def part(self, start: int, end: int) -> Chosen:
        """The same with some of the K targets of each image."""
        targets = self.targets
        own = targets[:, start:end] if isinstance(targets, Tensor) else [row[start:end] for row in targets]
        return replace(self, targets=own, everything=False)

    def objective(self) -> tuple[Tensor, Tensor | None]:
        """``(outputs, seeds)``: differentiating ``outputs`` along ``seeds`` gives each image's own target gradient.

        Images do not depend on one another, so one backward pass over the sum serves the whole batch. How scores with
        further axes count, :attr:`axis` says.
        """
        if isinstance(self.targets, Tensor):
            return self.scores, self._seeds(self.targets)
        output, batch = self.scores if self.output is None else self.output, len(self.targets)
        columns = zip(*self.targets, strict=True) if self.per_image else [self.targets]
        with torch.enable_grad():
            totals = []
            for column in columns:
                values = [_scalar(self.reader.bound(target), output, i, batch) for i, target in enumerate(column)]
                cut = next((v for v in values if not v.requires_grad), None)
                if cut is not None:
                    raise ValueError(
                        "a target callable must return a differentiable function of the scores, got a tensor cut off"
                    )
                totals.append(torch.stack(values).sum())
            if self.per_image is None:
                return totals[0], None
            return torch.stack(totals), torch.eye(len(totals), dtype=totals[0].dtype, device=totals[0].device)

    def _axis(self, scores: Tensor) -> ClassAxis:
        return self.reader.axis(scores) if self.axis is None else self.axis

    def _seeds(self, ids: Tensor) -> Tensor:
        seeds = self._axis(self.scores).seeds(self.scores, ids if ids.ndim == 2 else ids.unsqueeze(1))
        return seeds if ids.ndim == 2 else seeds[0]


def scores_for(targets: Any, output: Any, batch: int) -> Tensor:
    """The scores in what the model returned for ``batch`` images, or what ``targets`` read in their place.

    Targets of a field, or of all that is returned, need no scores: the field itself stands for them, or whatever has a
    row per image. Raises as :func:`camfast.model.outputs.scores_of`.
    """
    each = _flat(targets)
    if not each or not all(getattr(target, "whole_output", False) for target in each):
        return scores_of(output, batch)
    field = field_of(output, each[0].name) if isinstance(each[0], Field) else None
    try:
        return scores_of(output, batch)
    except (TypeError, ValueError):
        if isinstance(field, Tensor) and field.is_floating_point() and field.shape[:1] == (batch,):
            return field
        return rows_in(output, batch)


def _flat(targets: Any) -> list[Any]:
    if not isinstance(targets, (list, tuple)):
        return [targets]
    return [target for row in targets for target in _flat(row)]


def count_per_image(targets: Tensor | list[Any]) -> int | None:
    """K for the targets of K an image, ``[N, K]`` or N lists of K callables; None where there is one an image."""
    if isinstance(targets, Tensor):
        return targets.shape[1] if targets.ndim == 2 else None
    return len(targets[0]) if targets and _nested(targets[0]) else None


def choose(
    targets: Targets,
    scores: Tensor,
    class_names: ClassNames | None = None,
    output: Any = None,
    classes: Classes | None = None,
) -> Chosen:
    """Resolves ``targets`` against the scores.

    Args:
        targets: as the user gave them.
        scores: ``[N, ...]``; the numbers in :attr:`Chosen.targets` are columns along the axis of their classes.
        class_names: the user's names.
        output: all that the model returned.
        classes: what else is known of the classes, for scores with further axes.

    Raises:
        ValueError: a class out of range, an unknown name, a count other than the number of images, or scores whose axis
            of classes is not known.
        TypeError: anything that is no target.
        NothingFound: a detector found nothing in any image.
    """
    if found_nothing(output, scores.shape[0]):
        raise NothingFound
    names = listed_names(class_names)
    if output is not None and detections_in(output, scores.shape[0]) is not None:
        names = None  # the scores are those of boxes, one after the other
    known = classes if classes is not None else Classes()
    known.names = names
    reader = Reader(known, names)
    batch = scores.shape[0]
    if targets is not None and not isinstance(targets, (str, TopK, Policy, Columns)):
        each = _one_an_image(targets, batch)
        if len(each) != batch:
            raise ValueError(f"expected one target an image, {batch}, got {len(each)}")
        if isinstance(each, Sequence) and _any_callable(each):
            known.check_images(scores)
            return Chosen(_callables(each, scores, reader), scores, output, reader=reader, class_names=names)
    else:
        each = [targets] * batch
    axis = reader.axis(scores)
    everything = isinstance(targets, str) and targets == ALL
    if targets is None:
        ids = _likely(scores, axis).argmax(1)
    elif isinstance(targets, Columns):
        ids = targets.ids
    elif everything:
        ids = torch.arange(axis.start, axis.start + axis.classes, device=scores.device).expand(batch, -1)
    elif isinstance(targets, TopK):
        likely = _likely(scores, axis)
        if targets.k > axis.classes - axis.nothing:
            raise ValueError(f"TopK({targets.k}) needs at least {targets.k} classes, got {axis.classes - axis.nothing}")
        ids = likely.topk(targets.k, 1).indices
    elif isinstance(targets, Policy):
        ids = axis.start + targets.pick(_likely(scores, axis)[:, axis.start :])  # of classes alone
    else:
        ids = _class_ids(each, axis, reader).to(scores.device)
    everything = everything and not axis.start
    return Chosen(ids, scores, output, everything, axis, reader, _names_of_columns(names, axis, scores))


def class_columns(targets: Any, scores: Tensor, class_names: ClassNames | None, classes: Classes) -> Tensor:
    """The columns of ``scores`` that ``targets``, classes by number or name, mean: int64 ``[N]`` or ``[N, K]``.

    Of the scores their shape counts, and where they lie. Raises as :func:`choose`.
    """
    return choose(targets, scores, class_names, classes=classes).targets  # type: ignore[return-value]


def has_callables(targets: Any) -> bool:
    """Whether any of ``targets`` is a callable."""
    return _any_callable(targets) if _nested(targets) else callable(targets)


def _likely(scores: Tensor, axis: ClassAxis) -> Tensor:
    """``[N, columns]``, lowest where a column is no class."""
    found = axis.read(scores.detach())
    if not axis.start and not axis.nothing:
        return found
    found = found.clone()
    low = torch.finfo(found.dtype).min
    found[:, : axis.start] = low
    if axis.nothing:
        found[:, -1] = low
    return found


def _names_of_columns(names: Sequence[str] | None, axis: ClassAxis, scores: Tensor) -> Sequence[str] | None:
    """``names`` in the order of the scores' columns, of which the first may be no classes."""
    if names is None or not axis.start:
        return names
    return [*(f"column {number} of a box" for number in range(axis.start)), *names]


def _one_an_image(targets: Any, batch: int) -> Any:
    """A sequence, tensor or array of targets; a single one is meant for every image."""
    if isinstance(targets, Tensor):
        return targets if targets.ndim else targets.expand(batch)
    if isinstance(targets, str) or _is_int(targets) or callable(targets):
        return [targets] * batch
    if not isinstance(targets, Sequence) and not hasattr(targets, "__array__"):
        raise TypeError(f"targets must be classes, names, TopK or callables, got {type(targets).__name__}")
    return targets


def _class_ids(targets: Any, axis: ClassAxis, reader: Reader) -> Tensor:
    """Columns ``[N]`` or ``[N, K]`` of the scores, for class numbers and names."""
    named = _has_name(targets)
    ids = targets if isinstance(targets, Tensor) else torch.as_tensor(_without_names(targets, axis, reader))
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"targets must be integer classes, got {ids.dtype}")
    if ids.ndim > 2 or 0 in ids.shape:
        raise ValueError(f"targets must have shape [N] or [N, K], got {list(ids.shape)}")
    ids = ids.to(torch.int64)
    low, high = int(ids.min()), int(ids.max())
    if axis.start and not named:
        raise ValueError(rows_of_boxes(axis, low))
    if low < 0 or high >= axis.start + axis.classes:
        raise ValueError(
            f"targets must be classes from 0 to {axis.classes - 1}, got {low if low < 0 else high - axis.start}"
        )
    return ids


def _has_name(targets: Any) -> bool:
    if isinstance(targets, str):
        return True
    return isinstance(targets, Sequence) and any(map(_has_name, targets))


def _without_names(targets: Any, axis: ClassAxis, reader: Reader) -> Any:
    if isinstance(targets, str):
        return axis.start + reader.number(targets, axis)
    if isinstance(targets, Sequence):
        rows = [_without_names(target, axis, reader) for target in targets]
        if len({len(row) if isinstance(row, list) else None for row in rows}) > 1:
            raise ValueError("expected as many targets for each image, got rows of different lengths")
        return rows
    if _is_int(targets):
        number = operator.index(targets)
        if axis.start:
            raise ValueError(rows_of_boxes(axis, number))
        return number
    if hasattr(targets, "__array__"):
        return targets
    raise TypeError(f"targets must be all classes or all callables, got {type(targets).__name__} among them")


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


def _callables(targets: Sequence[Any], scores: Tensor, reader: Reader) -> list[Any]:
    """N targets, or N lists of K; classes among callables become callables as well."""
    rows = [list(target) if _nested(target) else [target] for target in targets]
    if len({(len(row), _nested(target)) for row, target in zip(rows, targets, strict=True)}) > 1 or not rows[0]:
        raise ValueError("expected as many targets for each image, got rows of different lengths")

    def callable_of(target: Any) -> Any:
        if callable(target):
            return target
        axis = reader.axis(scores)
        return Logit(int(_class_ids([target], axis, reader)[0]) - axis.start)

    found = [[callable_of(target) for target in row] for row in rows]
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


def _of_classes(columns: Tensor, ids: Tensor, paired: bool = False) -> Tensor:
    """``[B]`` for one class ``ids`` ``[]`` of ``columns`` ``[B, classes]``, ``[B, K]`` for K, or ``paired`` ``[B, K]``."""
    missing = int(ids.max()) + 1 - columns.shape[1]
    if missing > 0:  # a changed image in which a detector finds less
        columns = F.pad(columns, (0, missing))
    return columns.gather(1, ids) if paired else columns[:, ids]


def _probability(target: Any) -> Any:
    """The probability of a class in place of a class in a field; other targets as they are."""
    if isinstance(target, Field):
        inner = target.target
        if isinstance(inner, Class) and inner.axis is inner.over is None:
            inner = inner.category
        if isinstance(inner, (int, str)):
            return replace(target, target=Probability(inner))
        return replace(target, target=_probability(inner))
    return target
