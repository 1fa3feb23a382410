"""Maps that came out blank: the reason, in a warning of one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import DoubtWarning

__all__ = ["blank_rows", "warn_of_blank"]


def blank_rows(heatmap: Tensor, rank: int) -> Tensor:
    """Which of the maps in ``heatmap`` ``[..., *size]`` of ``rank`` dimensions are zero throughout: bool ``[...]``."""
    maps = heatmap.flatten(-rank)
    return (maps.amax(-1) == 0) & (maps.amin(-1) == 0)  # ten times faster on the CPU than any()


def warn_of_blank(layers: Sequence[str], blank: Tensor, raw: Sequence[Tensor], scores: Tensor, method: Any) -> None:
    """Says why some of a call's heatmaps are blank, and what to do.

    Args:
        layers: names of the layers.
        blank: bool ``[N]`` or ``[N, K]``: the maps that are zero throughout.
        raw: each layer's maps before ReLU and scaling, ``[N, (K,) *map]``.
        scores: the model's output ``[N, classes, ...]``.
        method: the explainer's class.
    """
    count, total = int(blank.sum()), blank.numel()
    which = "the heatmap is" if total == 1 else f"{count} of {total} heatmaps are"
    where = ", ".join(map(repr, layers))
    values = [maps[blank] for maps in raw if maps.shape[: blank.ndim] == blank.shape]
    name = method.__name__
    if all(not bool(maps.any()) for maps in values):
        if _saturated(scores):
            why = (
                "the scores are probabilities of exactly 0 and 1, through which no gradient comes; explain the model "
                "without its last softmax or sigmoid, so that it returns logits"
            )
        elif method.uses_gradients:
            why = (
                f"the target's gradient is zero at layer {where}, or what the layer gives is; name by layers= one that the "
                "target depends on"
            )
        else:
            why = f"layer {where} gave zeros only; name another layer by layers="
    else:
        why = (
            f"no value of the map of layer {where} is positive, only evidence against the target; normalize=False shows it, "
            "and another method or layer may find what speaks for the target"
        )
    warnings.warn(f"{which} blank ({name}): {why}", DoubtWarning, stacklevel=4)


def _saturated(scores: Tensor) -> bool:
    """Whether scores are probabilities that have reached 0 and 1."""
    if scores.ndim < 2 or not scores.is_floating_point():
        return False
    wide = scores.detach().float()
    within = bool(((wide >= 0) & (wide <= 1)).all())
    certain = ((wide < 1e-6) | (wide > 1 - 1e-6)).all(1)
    return within and bool(certain.any())
