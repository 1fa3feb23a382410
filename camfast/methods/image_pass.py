"""One pass with a graph from the image on, for methods that need gradients of the image itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model.class_axis import Classes
from ..model.inputs import Inputs, input_errors
from ..model.untouched import quiet
from ..targets import Targets
from .chosen import Chosen, choose, scores_for

__all__ = ["ImagePass", "image_pass"]


class ImagePass(NamedTuple):
    """The outcome of a pass: the image that is a leaf of the graph, and what to differentiate."""

    image: Tensor
    scores: Tensor
    chosen: Chosen

    def gradients(self) -> Iterator[Tensor]:
        """Gradients of the image, one a target of an image, in turn; the graph is gone after the last."""
        outputs, seeds = self.chosen.objective()
        rows: list[Any] = [seeds] if self.chosen.per_image is None else list(seeds)  # type: ignore[arg-type]
        for k, seed in enumerate(rows):
            keep = k < len(rows) - 1
            (gradient,) = _differentiable(outputs, self.image, seed, keep)
            yield gradient


def _differentiable(outputs: Tensor, image: Tensor, seed: Tensor | None, keep: bool) -> tuple[Tensor]:
    try:
        (gradient,) = torch.autograd.grad(outputs, image, seed, retain_graph=keep, allow_unused=True)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        gradient = None
    if gradient is None:
        raise ValueError(
            "the scores must depend on the image through differentiable operations, got no gradient: "
            "the model may call detach() or no_grad()"
        )
    return (gradient,)


@contextlib.contextmanager
def image_pass(
    model: nn.Module,
    inputs: Inputs,
    targets: Targets,
    class_names: Any = None,
    eval_mode: bool = True,
    around: AbstractContextManager[Any] | None = None,
) -> Iterator[ImagePass]:
    """Runs ``model`` with the image as a leaf; gradients are taken inside the context. The model is left as it was.

    ``around`` is a context for the model's run alone.
    """
    if not inputs.image.is_floating_point():
        kind = str(inputs.image.dtype).removeprefix("torch.")
        raise TypeError(f"float images expected, got {kind}; this method takes the gradient of the image itself")
    with quiet(model, eval_mode), torch.enable_grad():
        # A copy, since the model may overwrite its input: that must not reach the caller's image.
        leaf = inputs.image.detach().clone().requires_grad_()
        call = inputs.with_image(leaf.clone())
        with input_errors(model, inputs), around if around is not None else contextlib.nullcontext():
            output = model(*_ordinary(call.args), **_ordinary(call.kwargs))
        scores = scores_for(targets, output, inputs.batch)
        yield ImagePass(leaf, scores, choose(targets, scores, class_names, output, Classes(None, model, inputs)))


def _ordinary(values: Any) -> Any:
    """Arguments without tensors of inference mode, which no graph may hold."""
    if isinstance(values, dict):
        return {key: _ordinary_one(value) for key, value in values.items()}
    return tuple(_ordinary_one(value) for value in values)


def _ordinary_one(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
