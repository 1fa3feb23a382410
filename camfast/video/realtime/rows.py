"""A network's scores as one row of classes a frame, whatever axes they have: boxes, queries, positions of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from ...methods import Explainer
from ...model.bounded import Bounded
from ...model.class_axis import AmbiguousClasses, ClassAxis
from ...model.inputs import Inputs
from ...model.outputs import detections_in
from ...model.restored import Restored
from ...targets import listed_names

__all__ = ["Rows"]


class _Way(NamedTuple):
    """How scores of one shape are read; no axis: it is not known which of them are classes."""

    axis: ClassAxis | None
    turn: Literal["as they are", "sigmoid", "softmax"] = "as they are"


class Rows:
    """Makes ``[N, classes]`` of scores, and class numbers of the columns that were explained.

    Attributes:
        exclusive: whether the rows are a classifier's scores, of which a softmax makes probabilities. False: they are
            probabilities already, each class's by itself: of its best box or query, or its share of the picture.
    """

    def __init__(self) -> None:
        self.exclusive = True
        self._ways: dict[tuple[int, ...], _Way] = Bounded()
        self._lists: bool | None = None  # whether the model returns lists of boxes; None: not seen yet

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Looks once at what ``model`` returns in the ``with`` block."""
        if self._lists is not None:
            yield
            return

        def look(_: nn.Module, args: Any, output: Any) -> None:
            self._lists = isinstance(output, (list, tuple)) and detections_in(output, len(output)) is not None

        with Restored() as restored:
            restored.hook(model, look)
            yield

    def __call__(self, explainer: Explainer, images: Tensor, scores: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Rows ``[N, classes]`` (``[N, 0]`` where classes are not known) and targets, of scores ``[N, ...]``.

        Raises ``ValueError`` for a class where the model returns a list of boxes, which have no numbers from frame to frame.
        """
        if self._lists:
            if isinstance(targets, Tensor):
                raise ValueError(
                    "expected scores of classes, got a list of boxes with their labels; give targets= a callable, such as "
                    "camfast.targets.Field('scores', lambda scores: scores.sum())"
                )
            self.exclusive = False
            return scores.new_zeros(len(images), 0), targets
        self.exclusive = scores.ndim < 3
        if self.exclusive:
            return (scores if scores.ndim == 2 else scores.reshape(-1, 1)), targets
        shape = tuple(scores.shape)
        if shape not in self._ways:
            self._ways[shape] = _way(explainer, images, scores)
        axis, turn = self._ways[shape]
        if axis is None:
            return scores.new_zeros(len(images), 0), targets
        if turn == "softmax":
            scores = axis.softmax(scores)
        rows = axis.read(scores)[:, axis.start : axis.start + axis.classes - axis.nothing]
        numbers = targets - axis.start if isinstance(targets, Tensor) else targets
        return (rows.sigmoid() if turn == "sigmoid" else rows), numbers


def _way(explainer: Explainer, images: Tensor, scores: Tensor) -> _Way:
    classes = explainer.classes(Inputs.of(images, explainer.model))
    classes.names = listed_names(explainer.class_names)
    try:
        axis = classes.axis(scores)
    except AmbiguousClasses:
        return _Way(None)
    own = scores.narrow(axis.axis, axis.start, axis.classes)
    if own.amin() >= 0 and own.amax() <= 1:  # probabilities already
        return _Way(axis)
    return _Way(axis, "sigmoid" if axis.over == "best" and not axis.nothing else "softmax")
