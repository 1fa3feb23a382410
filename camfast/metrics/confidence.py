"""What an image keeps of its score when it is multiplied by its heat: drop, increase and gain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..model.inputs import Images
from ..targets import ClassNames, Targets
from .heat import Heat
from .scores import Score, Scored

__all__ = ["Confidence", "average_drop", "average_gain", "average_increase", "confidence", "confidence_of"]


@dataclass(repr=False)
class Confidence(Brief):
    """Scores of images before and after they were multiplied by their heat in [0, 1].

    Attributes:
        before: ``[N]``, or ``[N, K]`` for K targets an image.
        after: the same shape; NaN where the heat is not finite.
    """

    before: Tensor
    after: Tensor

    @property
    def change(self) -> Tensor:
        """``after - before``; pytorch-grad-cam's ``CamMultImageConfidenceChange``."""
        return self.after - self.before

    @property
    def drop(self) -> Tensor:
        """``max(0, before - after) / before``: the share of the score that is lost (Chattopadhay 2018, section 4.1)."""
        return (self.before - self.after).clamp(min=0) / self.before

    @property
    def increase(self) -> Tensor:
        """1 where the score rises, else 0 (Chattopadhay 2018, section 4.1)."""
        return (self.after > self.before).to(self.after.dtype).where(self.after.isfinite(), torch.nan)

    @property
    def gain(self) -> Tensor:
        """``max(0, after - before) / (1 - before)``: of what was possible (Zhang 2024, Opti-CAM, section 4.1).

        Of probabilities alone; 0 where the score was 1.
        """
        room = 1 - self.before
        return torch.where(room > 0, (self.after - self.before).clamp(min=0) / room, 0).where(
            self.after.isfinite(), torch.nan
        )


def confidence(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Confidence:
    """Scores before and after the images are multiplied by their heat: drop, increase and gain in one.

    Args:
        model: the model that was explained.
        images: ``[N, C, *size]``, as it takes them: 0 is what stands where the heat is 0.
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, *size]`` or ``[N, K, *size]``, in [0, 1].
        targets: as explainers take them; None: the explanation's own, or each image's top class.
        score: ``"probability"`` or ``"output"``.
        batch_size: changed images per pass; None: as many as fit.
        class_names: for targets by name.

    Returns:
        A :class:`Confidence`.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    return confidence_of(
        Scored(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    )


def average_drop(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Tensor:
    """The share of each score that is lost when its image is multiplied by the heat, ``[N]`` or ``[N, K]``. Less is better.

    ``max(0, before - after) / before``; its mean over images is the average drop (Chattopadhay 2018, section 4.1,
    https://arxiv.org/abs/1710.11063). Arguments and errors are those of :func:`confidence`.
    """
    return confidence(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names).drop


def average_increase(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Tensor:
    """1 where the score rises when the image is multiplied by the heat, else 0, ``[N]`` or ``[N, K]``. More is better.

    Its mean is the average increase, or increase in confidence (Chattopadhay 2018, section 4.1). Arguments and errors are
    those of :func:`confidence`.
    """
    return confidence(
        model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names
    ).increase


def average_gain(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Tensor:
    """Of what a probability could rise, the share that it does rise by, ``[N]`` or ``[N, K]``. More is better.

    ``max(0, after - before) / (1 - before)``; its mean is the average gain (Zhang 2024, Opti-CAM, section 4.1,
    https://arxiv.org/abs/2301.07002). Arguments and errors are those of :func:`confidence`.
    """
    return confidence(model, images, heat, targets, batch_size=batch_size, class_names=class_names).gain


def confidence_of(found: Scored) -> Confidence:
    """Of what was found."""
    return Confidence(found.shaped(found.own), found.shaped(found.masked))
