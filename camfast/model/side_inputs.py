"""Which of a call's tensors belong to the images, and which to the classes: by what the model makes of one image alone.

As many prompts as images look like one prompt per image. With one image alone they tell: sliced along with it, a prompt per
class leaves one class; a mask per image, not sliced, does not fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .inputs import Inputs
from .outputs import scores_in
from .untouched import quiet

__all__ = ["shared_places"]

_MOST = 4  # tensors in doubt of which every combination is tried


def shared_places(model: nn.Module, inputs: Inputs, eval_mode: bool = True) -> tuple[int, ...]:
    """The places, among :meth:`Inputs.beside`, of tensors that are the same for every image though they look like rows.

    One pass over the batch and, mostly, one over its first image. Where no combination gives the first image the scores
    that it has in the batch, all are taken to be rows of the images.
    """
    beside = inputs.beside()
    if inputs.batch == 1 or not beside or len(beside) > _MOST:
        return ()
    with quiet(model, eval_mode), torch.no_grad():
        expected = _scores(model, inputs)
        if expected is None or expected.shape[0] != inputs.batch:
            return ()
        for places in _combinations(len(beside)):
            try:
                found = _scores(model, inputs.sharing([beside[place] for place in places]).first())
            except Exception:  # it does not fit: the model says so in its own way
                continue
            if found is not None and found.shape == expected[:1].shape and _close(found, expected[:1]):
                return places
    return ()


def _combinations(count: int) -> Sequence[tuple[int, ...]]:
    """None of them, all of them, then the others."""
    every = [places for size in range(count + 1) for places in itertools.combinations(range(count), size)]
    return sorted(every, key=lambda places: len(places) not in (0, count))


def _scores(model: nn.Module, inputs: Inputs) -> Tensor | None:
    call = inputs.cut()
    output: Any = model(*call.args, **call.kwargs)
    scores = scores_in(output)
    return None if scores is None or scores.ndim == 0 else scores.float()


def _close(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().nan_to_num(0, 0, 0).amax())
    return torch.allclose(found, expected, rtol=0, atol=1e-3 * scale, equal_nan=True)
