"""A target: what makes a scalar of one image's scores, or of all that the model said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..structures import scores_in

__all__ = ["Field", "Target", "class_score", "value_of"]


class Target:
    """Base of the targets here; any callable of the same form serves as well.

    ``whole_output`` says what a target is called with: False, the image's scores ``[classes, ...]``; True, the image's
    part of whatever the model returned, such as a detector's dict of boxes, labels and scores.
    """

    whole_output: ClassVar[bool] = False

    def __call__(self, scores: Any) -> Tensor:
        """The scalar to explain, a differentiable function of ``scores``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Field(Target):
    """Another target, of one field of the model's output: a key, an attribute or a position.

    ``Field("image_embeds", Similarity(text))`` explains what in an image is near a text; ``Field(1, 5)`` is class 5 of
    the second tensor that the model returns.
    """

    name: str | int
    target: Target | Callable[[Tensor], Tensor] | int
    whole_output: ClassVar[bool] = True

    def __call__(self, output: Any) -> Tensor:
        if isinstance(output, Mapping) and self.name in output:
            part = output[self.name]
        elif isinstance(self.name, str):
            part = getattr(output, self.name, None)
        else:
            part = output[self.name] if isinstance(output, (tuple, list)) and self.name < len(output) else None
        if part is None:
            known = f"one with {', '.join(map(str, output))}" if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"expected an output with the field {self.name!r}, got {known}")
        return value_of(self.target, part)


def value_of(target: Any, output: Any) -> Tensor:
    """What ``target``, a class or a callable, makes of one image's ``output``: its scores, or all there is.

    Users' own callables get all that a detector said of the image, since that is what they are written for.
    """
    detected = isinstance(output, Mapping) and {"boxes", "scores"} <= set(output)
    if getattr(target, "whole_output", detected and callable(target) and not isinstance(target, Target)):
        return target(output)
    scores = output if isinstance(output, Tensor) else output["scores"] if detected else scores_in(output)
    if scores is None:
        raise TypeError(f"{target!r} needs scores, got {type(output).__name__} without float tensors")
    return target(scores) if callable(target) else class_score(scores, target)


def class_score(scores: Tensor, category: int) -> Tensor:
    """The score of one class, of one image's scores ``[classes]``; of a plane ``[classes, *size]`` its mean."""
    if scores.ndim == 0:
        return scores
    if not 0 <= category < len(scores):
        raise ValueError(f"expected a class from 0 to {len(scores) - 1}, got {category}")
    return scores[category] if scores.ndim == 1 else scores[category].mean()
