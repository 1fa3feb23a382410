"""captum's conventions: tensors or tuples of them, further arguments, targets that index outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["as_arguments", "as_given", "as_inputs", "chosen_scores", "select_targets", "wrapped"]


Method = TypeVar("Method", bound=Callable[..., Any])


def wrapped(method: Method) -> Method:
    """The same, to be found under ``__wrapped__``, where captum's ``NoiseTunnel`` looks for it."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return cast(Method, call)


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """A tensor or a tuple of tensors as a tuple."""
    if not isinstance(inputs, (Tensor, tuple)):
        raise AssertionError(f"`inputs` must be a torch.Tensor or a tuple[torch.Tensor], got {type(inputs).__name__}")
    return inputs if isinstance(inputs, tuple) else (inputs,)


def as_arguments(additional: Any) -> tuple[Any, ...]:
    """The further arguments of a call: none, one, or a tuple of several."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def as_given(values: list[Tensor], tupled: bool) -> Any:
    """A tuple, or the one tensor."""
    return tuple(values) if tupled else values[0]


def select_targets(output: Any, target: Any) -> Tensor:
    """What ``target`` chooses of ``output`` ``[N, ...]``: ``[N, ...]``, one value a sample where it names all dimensions.

    Args:
        target: None; an int, a tensor of one, or a tuple of indices, for all samples; a list of ints or of tuples, or a
            tensor ``[N]``, one a sample.

    Raises ``AssertionError`` for a target that does not fit the output, ``IndexError`` for one out of range.
    """
    if target is None:
        return output
    if isinstance(target, Tensor):
        if target.numel() == 1:
            return _column(output, (target.item(),))
        if target.ndim != 1 or len(target) != len(output):
            raise AssertionError(
                f"Tensor target dimension {list(target.shape)} is not valid: expected [{len(output)}], one an example"
            )
        return _one_each(output, target)
    if isinstance(target, int):
        return _column(output, (target,))
    if isinstance(target, tuple):
        return _column(output, target)
    if not isinstance(target, list):
        raise AssertionError(f"Target type {type(target).__name__} is not valid: expected ints, tuples or a tensor")
    if len(target) != len(output):
        raise AssertionError(f"Target list length does not match output: expected {len(output)}, got {len(target)}")
    if isinstance(target[0], int):
        return _one_each(output, torch.tensor(target, device=output.device))
    if isinstance(target[0], tuple):
        return torch.stack([_column(row.unsqueeze(0), index)[0] for row, index in zip(output, target, strict=True)])
    raise AssertionError(f"Target element type {type(target[0]).__name__} in list is not valid: expected int or tuple")


def _column(output: Tensor, index: tuple[Any, ...]) -> Tensor:
    if len(index) > output.ndim - 1:
        raise AssertionError(f"Cannot choose target column {index} with output shape {list(output.shape)}")
    where = (slice(None), *index)
    return output[where]


def _one_each(output: Tensor, columns: Tensor) -> Tensor:
    if output.ndim != 2:
        raise AssertionError(f"Output must be 2D to select a tensor of targets, got {list(output.shape)}")
    return output.gather(1, columns.to(output.device).unsqueeze(1)).squeeze(1)


def chosen_scores(output: Any, target: Any) -> Tensor:
    """The same, one value a sample ``[N]``; ``AssertionError`` where more is left."""
    scores = select_targets(output, target)
    if scores.ndim and scores[0].numel() != 1:
        raise AssertionError(
            "Target not provided when necessary, cannot take gradient with respect to multiple outputs: "
            f"got {list(scores.shape)}"
        )
    return scores
