"""Tensors inside what models return: tuples, lists, named tuples, mappings and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["detections_in", "replace_all", "replace_first", "row_of", "scores_in", "scores_of", "tensors_in"]

_SCORES = ("logits", "out", "logits_per_image", "image_embeds", "pooler_output")  # of Hugging Face and torchvision


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in ``value``, in order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for _, item in _items(value):
            yield from tensors_in(item)


def scores_in(output: Any) -> Tensor | None:
    """The scores in what a model returned: itself, a field of one of the usual names, or its first floating tensor."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    for name in _SCORES:
        named = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(named, Tensor):
            return named
    return next((tensor for tensor in tensors_in(output) if tensor.is_floating_point()), None)


def detections_in(output: Any, batch: int) -> Sequence[Mapping[str, Any]] | None:
    """What a detector returned, a mapping with ``scores`` ``[D]`` an image; None for anything else."""
    if not isinstance(output, (tuple, list)) or len(output) != batch:
        return None
    fits = all(isinstance(item, Mapping) and isinstance(item.get("scores"), Tensor) for item in output)
    return output if fits else None


def row_of(output: Any, index: int, batch: int) -> Any:
    """The part of a model's output that belongs to one image of the batch: the same structure without that dimension."""
    if isinstance(output, Tensor):
        return output[index] if output.ndim and output.shape[0] == batch else output
    if isinstance(output, (tuple, list)):
        several = len(output) == batch and not all(isinstance(v, Tensor) and v.shape[:1] == (batch,) for v in output)
        if several:
            return output[index]
        rows = [row_of(value, index, batch) for value in output]
        return type(output)(*rows) if hasattr(output, "_fields") else type(output)(rows)
    if isinstance(output, Mapping):
        return {key: row_of(value, index, batch) for key, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {field.name: row_of(getattr(output, field.name), index, batch) for field in dataclasses.fields(output)}
        return dataclasses.replace(output, **fields)
    return output


def replace_first(value: Any, wanted: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor]) -> tuple[Any, bool]:
    """``value`` rebuilt with ``change`` applied to the first ``wanted`` tensor, and whether there was one.

    The original structure is not modified, since the module that returned it may keep it.
    """
    if isinstance(value, Tensor):
        return (change(value), True) if wanted(value) else (value, False)
    for key, item in _items(value):
        new, found = replace_first(item, wanted, change)
        if found:
            return _with_item(value, key, new), True
    return value, False


def replace_all(value: Any, wanted: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` rebuilt with ``change`` applied to every ``wanted`` tensor, in order; the original is not modified."""
    if isinstance(value, Tensor):
        return change(value) if wanted(value) else value
    for key, item in _items(value):
        new = replace_all(item, wanted, change)
        if new is not item:
            value = _with_item(value, key, new)
    return value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _with_item(value: Any, key: Any, item: Any) -> Any:
    if isinstance(value, tuple):
        items = [*value[:key], item, *value[key + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (list, Mapping)):
        changed: Any = copy.copy(value)
        changed[key] = item
        return changed
    return dataclasses.replace(value, **{key: item})


def scores_of(output: Any, batch: int) -> Tensor:
    """The scores in a model's output: itself, a field of a usual name (``logits``, ``out``), or its first floating tensor.

    Those of a detector, a mapping with ``scores`` an image, are ``[N, D]``, the image with most detections having D and
    the others zeros behind theirs: class k is the k-th detection. Returns a tensor ``[N, classes]``, ``[N, classes,
    *size]`` or ``[N]``. Raises ``TypeError`` when there is none, and ``ValueError`` when its first dimension is not the
    batch, or where a detector found nothing.
    """
    detections = detections_in(output, batch)
    if detections is not None:
        return _padded([detection["scores"] for detection in detections])
    scores = scores_in(output)
    if scores is None:
        raise TypeError(f"the model must return scores [N, classes], got {type(output).__name__} without float tensors")
    if scores.ndim == 0 or scores.shape[0] != batch:
        raise ValueError(f"the model must return one row of scores an image, [{batch}, ...], got {list(scores.shape)}")
    return scores


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """``[N, D]`` of N rows of different lengths, with zeros behind the shorter ones."""
    length = max(len(row) for row in rows)
    if length == 0:
        raise ValueError("the detector must find something to explain, got no detection in any image")
    return torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
