"""A student whose heat lies where its teacher's does."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..ops import reference
from .heat import BLANK, Reduction, checked, reduced, same_maps

__all__ = ["heat_distillation"]


def heat_distillation(
    heat: Tensor,
    teacher: Tensor,
    *,
    kind: Literal["l2", "cosine"] = "l2",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The difference between a student's heat and its teacher's.

    ``"l2"``: the mean over positions of ``(heat - teacher) ** 2``, which compares values; both in one range, as in [0, 1].
    ``"cosine"``: ``1 - heat . teacher / (|heat| |teacher|)``, which compares shapes: half the square of the distance of maps
    of length 1 (attention transfer, Zagoruyko 2017, https://arxiv.org/abs/1612.03928).

    Args:
        heat: of the student, ``[N, H, W]`` or ``[N, K, H, W]``.
        teacher: heat of the same targets, at any size, resized linearly to the student's. No gradient goes to it.
        kind: ``"l2"`` or ``"cosine"``.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean of heat in [0, 1], or a value per map. By ``"cosine"`` a blank map is like none: 1.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for heat that is not finite, which names the images, a teacher of other maps, and weights that do not fit.
    """
    if kind not in ("l2", "cosine"):
        raise ValueError(f"kind must be 'l2' or 'cosine', got {kind!r}")
    heat, teacher = checked(heat), checked(teacher, "teacher", graph=False).detach()
    same_maps(heat, teacher, "teacher")
    teacher = reference.resize(teacher.to(heat), heat.shape[-2:])
    if kind == "l2":
        return reduced((heat - teacher).square().mean((-2, -1)), weights, reduction)
    square = heat.square().sum((-2, -1)) * teacher.square().sum((-2, -1))
    some = square > BLANK**2
    cosine = (heat * teacher).sum((-2, -1)) / torch.where(some, square, 1).sqrt()
    return reduced(1 - torch.where(some, cosine, 0), weights, reduction)
