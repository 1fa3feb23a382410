"""Tensors inside what models return: tuples, lists, named tuples, mappings, dataclasses and objects of own classes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "described",
    "detections_in",
    "field_of",
    "found_nothing",
    "replace_all",
    "replace_first",
    "row_of",
    "rows_in",
    "scores_in",
    "scores_of",
    "tensors_in",
]

_SCORES = ("logits", "out", "logits_per_image", "image_embeds", "pooler_output")  # of Hugging Face and torchvision
_DEPTH = 6  # of objects inside objects that are looked into: they may refer to one another


def tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Every tensor in ``value``, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth:
        for _, item in _items(value):
            yield from tensors_in(item, depth - 1)


def field_of(output: Any, name: str | int) -> Any:
    """A part of an output: a key, an attribute, or a position among its values; None where there is none."""
    if isinstance(output, Mapping) and name in output:
        return output[name]
    if isinstance(name, str):
        return getattr(output, name, None)
    if isinstance(output, (tuple, list)) and -len(output) <= name < len(output):
        return output[name]
    return None


def described(output: Any) -> str:
    """What a model returned, in words: its type, and the names of its parts."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(str, output))}" if output else f"an empty {kind}"
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return f"a {kind} of {len(output)}"
    names = [str(name) for name, _ in _items(output)]
    return f"{kind} with {', '.join(names)}" if names else kind


def scores_in(output: Any) -> Tensor | None:
    """The scores in what a model returned: itself, a field of one of the usual names, or its first floating tensor.

    Numbers without dimensions, such as a loss, are scores only where there is nothing else. None where there is no
    floating tensor, or where an object of a class of the model's own holds several of other names.
    """
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    named = _named_scores(output)
    if named is not None:
        return named
    found = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    rows = [tensor for tensor in found if tensor.ndim]
    if len(rows) > 1 and _is_own(output):
        return None
    return next(iter([*rows, *found]), None)


def _named_scores(output: Any, depth: int = _DEPTH) -> Tensor | None:
    """The tensor of a usual name: of ``output`` itself, else of its first part that has one."""
    if isinstance(output, Tensor) or not depth:
        return None
    for name in _SCORES:
        named = output.get(name) if isinstance(output, Mapping) else _attribute(output, name)
        if isinstance(named, Tensor):
            return named if named.is_floating_point() else None
    for _, item in _items(output):
        if not isinstance(item, Tensor) and (found := _named_scores(item, depth - 1)) is not None:
            return found
    return None


def _attribute(output: Any, name: str) -> Any:
    try:
        return getattr(output, name, None)
    except Exception:  # a property that does not fit this output
        return None


def detections_in(output: Any, batch: int) -> Sequence[Mapping[str, Any]] | None:
    """What a detector returned, a mapping with ``scores`` ``[D]`` an image; None for anything else."""
    if not isinstance(output, (tuple, list)) or len(output) != batch:
        return None
    fits = all(isinstance(item, Mapping) and isinstance(item.get("scores"), Tensor) for item in output)
    return output if fits else None


def found_nothing(output: Any, batch: int) -> bool:
    """Whether ``output`` is that of a detector that found nothing in any of ``batch`` images."""
    detections = detections_in(output, batch)
    return bool(detections) and not any(len(detection["scores"]) for detection in detections or ())


def row_of(output: Any, index: int, batch: int, depth: int = _DEPTH) -> Any:
    """The part of a model's output that belongs to one image of the batch: the same structure without that dimension.

    Tensors have the images first, or, with three dimensions or more, second (``[T, N, classes]``). A lone row is every
    image's.
    """
    if isinstance(output, Tensor):
        if output.ndim and output.shape[0] == batch:
            return output[index]
        if output.ndim >= 3 and output.shape[1] == batch:
            return output[:, index]
        return output[0] if output.ndim > 1 and output.shape[0] == 1 else output
    if not depth:
        return output
    if isinstance(output, (tuple, list)) and _is_list_of_images(output, batch):
        return output[index]
    for key, item in _items(output):
        row = row_of(item, index, batch, depth - 1)
        if row is not item:
            output = _with_item(output, key, row)
    return output


def _is_list_of_images(output: Sequence[Any], batch: int) -> bool:
    """Whether each item of a tuple or list belongs to one image, instead of being one of a model's several outputs."""
    if len(output) != batch:
        return False
    if detections_in(output, batch) is not None:
        return True
    tensors = [item for item in output if isinstance(item, Tensor)]
    if any(not tensor.ndim for tensor in tensors):
        return False  # a loss
    rows = [tensor.shape[0] == batch for tensor in (tensors or tensors_in(output)) if tensor.ndim]
    return not (all(rows) if isinstance(output, list) or not tensors else any(rows))


def replace_first(
    value: Any, wanted: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor], depth: int = _DEPTH
) -> tuple[Any, bool]:
    """``value`` rebuilt with ``change`` applied to the first ``wanted`` tensor, and whether there was one.

    The original structure is not modified, since the module that returned it may keep it.
    """
    if isinstance(value, Tensor):
        return (change(value), True) if wanted(value) else (value, False)
    for key, item in _items(value) if depth else ():
        new, found = replace_first(item, wanted, change, depth - 1)
        if found:
            return _with_item(value, key, new), True
    return value, False


def replace_all(
    value: Any, wanted: Callable[[Tensor], bool], change: Callable[[Tensor], Tensor], depth: int = _DEPTH
) -> Any:
    """``value`` rebuilt with ``change`` applied to every ``wanted`` tensor, in order; the original is not modified."""
    if isinstance(value, Tensor):
        return change(value) if wanted(value) else value
    for key, item in _items(value) if depth else ():
        new = replace_all(item, wanted, change, depth - 1)
        if new is not item:
            value = _with_item(value, key, new)
    return value


def _is_own(value: Any) -> bool:
    """Whether ``value`` is an object of a class of the model's own, whose attributes hold what it returns."""
    if isinstance(value, (Mapping, tuple, list, type, torch.nn.Module)) or dataclasses.is_dataclass(value):
        return False
    library = type(value).__module__.partition(".")[0] in ("builtins", "torch", "numpy")
    return not library and not callable(value) and hasattr(value, "__dict__")


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return list(vars(value).items()) if _is_own(value) else []


def _with_item(value: Any, key: Any, item: Any) -> Any:
    if isinstance(value, tuple):
        items = [*value[:key], item, *value[key + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (list, Mapping)):
        changed: Any = copy.copy(value)
        changed[key] = item
        return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{key: item})
    changed = copy.copy(value)
    vars(changed)[key] = item
    return changed


def scores_of(output: Any, batch: int, rows: Literal["images", "fewer"] = "images") -> Tensor:
    """The scores in a model's output: itself, a field of a usual name (``logits``, ``out``), or its first floating tensor.

    Those of a detector, a mapping with ``scores`` an image, are ``[N, D]``, the image with most detections having D and
    the others zeros behind theirs: class k is the k-th detection; D is 0 where it found nothing. Scores
    ``[T, N, classes]`` come back with the images first.

    Args:
        output: what the model returned.
        batch: number of images, N.
        rows: ``"images"`` wants a row of scores per image; ``"fewer"`` takes ``[R, classes, ...]`` of R rows as well,
            where N is a multiple of R: frames of R clips, of which each has one row.

    Returns:
        ``[N, classes]``, ``[N, classes, *size]`` or ``[N]``; with ``rows="fewer"`` R rows in place of N.

    Raises:
        TypeError: there are no scores.
        ValueError: their first dimension is not the batch.
    """
    detections = detections_in(output, batch)
    if detections is not None:
        return _padded([detection["scores"] for detection in detections])
    scores = scores_in(output)
    if scores is None:
        raise TypeError(
            f"the model must return scores [N, classes], got {described(output)}: no float tensor, and none of the names "
            f"{', '.join(_SCORES)}, was found; targets.Field names a part of it"
        )
    if scores.ndim and scores.shape[0] == batch:
        return scores
    if scores.ndim >= 3 and scores.shape[1] == batch:
        with torch.enable_grad():  # a view without a graph would have no gradient
            return scores.transpose(0, 1)
    if rows == "fewer" and scores.ndim >= 2 and scores.shape[0] and batch % scores.shape[0] == 0:
        return scores
    raise ValueError(f"the model must return one row of scores an image, [{batch}, ...], got {list(scores.shape)}")


def rows_in(output: Any, batch: int) -> Tensor:
    """As :func:`scores_of`; where it finds no scores, the first floating tensor with a row per image stands for them."""
    try:
        return scores_of(output, batch)
    except (TypeError, ValueError):
        rows = (t for t in tensors_in(output) if t.is_floating_point() and t.ndim and t.shape[0] == batch)
        found = next(rows, None)
        if found is None:
            raise
        return found


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """``[N, D]`` of N rows of different lengths, with zeros behind the shorter ones."""
    length = max(len(row) for row in rows)
    return torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
