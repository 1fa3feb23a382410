"""One call of an explainer captured in a CUDA graph, and its results for other images and classes of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..model.cuda_graphs import Captured
from ..model.watched import Watched
from .chosen import Columns, class_columns, count_per_image
from .explanation import Explanation
from .kinds import Call
from .ranges import in_range

__all__ = ["Replayed", "capture"]


def capture(call: Call, step: Callable[..., Explanation]) -> Replayed | None:
    """``step``, an explainer's call, captured for calls of the kind of ``call``; None where its classes are wrong ones.

    Raises what the capture raises.
    """
    if not call.of_classes:
        return Replayed(call, step, None)
    try:
        ids = step(call.inputs, call.targets, call.size, not call.raw).targets
    except (TypeError, ValueError):
        return None
    with torch.inference_mode(False):
        return Replayed(call, step, ids.clone())  # type: ignore[union-attr]


class Replayed:
    """A captured call, made by :func:`capture`; ``ids`` are the columns of its classes where these were given."""

    def __init__(self, call: Call, step: Callable[..., Explanation], ids: Tensor | None) -> None:
        self._held = Watched(call.explainer.model).keep(), step  # the memory that the graph reads
        self._ids = ids
        targets = call.targets if ids is None else Columns(ids)
        self._captured = Captured(
            lambda *tensors: step(call.with_tensors(tensors), targets, call.size, not call.raw), *call.tensors
        )
        found: Explanation = self._captured.results
        self._image = next(i for i, tensor in enumerate(self._captured.inputs) if tensor is found.images)

    def __call__(self, call: Call) -> Explanation | None:
        """The explanation of another call of the kind, in memory of its own unless the explainer reuses it.

        None for classes that the scores had not when they were captured, or of another shape.
        """
        found: Explanation = self._captured.results
        try:
            ids = None if self._ids is None else self._columns(call, found.scores)
        except (TypeError, ValueError):
            return None
        if ids is not None and self._ids is not None and ids.shape != self._ids.shape:
            return None
        with self._captured.alone():
            if ids is not None and self._ids is not None:
                self._ids.copy_(ids)
            self._captured(*call.tensors)
            heatmap, scores, targets = found.heatmap, found.scores, found.targets
            if call.explainer.graph != "reuse" or call.explainer.aug_smooth:
                heatmap, scores, targets = heatmap.clone(), scores.clone(), targets.clone()  # type: ignore[union-attr]
        result = replace(found, heatmap=heatmap, scores=scores, targets=targets, images=call.tensors[self._image])
        if isinstance(call.normalize, bool):
            return result
        rank = heatmap.ndim - 1 - (count_per_image(targets) is not None) - (found.maps_per_image is not None)
        heatmap, scale = in_range(heatmap, rank, call.normalize)
        return replace(result, heatmap=heatmap, scale=scale)

    def _columns(self, call: Call, scores: Tensor) -> Tensor:
        """The columns that the call's classes mean; one class for all images without a copy that waits for the device."""
        assert self._ids is not None
        targets = call.targets
        if type(targets) is int and scores.ndim == 2 and 0 <= targets < scores.shape[1] and self._ids.ndim == 1:
            return torch.full_like(self._ids, targets)
        return class_columns(targets, scores, call.explainer.class_names, call.explainer.classes(call.inputs))
