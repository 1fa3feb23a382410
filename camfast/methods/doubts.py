"""Maps that came out blank: the reason, in a warning of one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import few
from ..errors import DoubtWarning, warn
from .layer_map import LayerMap, SummedMap

__all__ = ["blank_rows", "warn_of_blank", "warn_of_rounding", "warn_of_unknown"]

_ROUNDING = 32  # epsilons of fp32, times the scores: what sums of a few hundred terms that cancel out leave


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
        if not bool(scores.any()):
            why = "every score is exactly 0, as where a head's weights are zero before it is trained; load trained weights"
        elif _saturated(scores):
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
    warn(f"{which} blank ({name}): {why}", DoubtWarning)


def warn_of_unknown(scores: Tensor, model: nn.Module, method: Any) -> None:
    """Says which images' scores are NaN, and whether the weights are.

    Args:
        scores: the model's output ``[N, classes, ...]``.
        model: whose weights are looked at, where there is something to say.
        method: the explainer's class.
    """
    if not scores.is_floating_point() or scores.ndim == 0 or not bool(scores.isnan().any()):
        return
    rows = scores.isnan().reshape(len(scores), -1).any(1).nonzero().flatten().tolist()
    images = (
        f"every image of {len(scores)}"
        if len(rows) == len(scores)
        else f"image {few([str(row) for row in rows], len(rows))}"
    )
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    weight = next((name for name, value in named if value.is_floating_point() and bool(value.isnan().any())), None)
    why = (
        "look for NaN in what was given" if weight is None else f"the model's {weight!r} holds NaN; load other weights"
    )
    warn(f"the scores of {images} are NaN ({method.__name__}): {why}", DoubtWarning)


def warn_of_rounding(maps: Sequence[LayerMap], scores: Tensor, method: Any, layers: Sequence[str]) -> None:
    """Says so where heat is too small to be more than rounding.

    Two ways lead there. To first order a score changes by the sum of gradient times activation where a layer's output is
    taken away: of a target that does not depend on the layer, such as the mean after a normalisation, terms that cancel
    out leave a few units in the last place of the scores. And where the scores stay as they are when the layer's output is
    scaled, as before a normalisation, gradient times activation cancels out in the sum over channels.

    Args:
        maps: of each layer, with gradients ``[N, (K,) C, *map]`` for weights.
        scores: the model's output.
        method: the explainer's class.
        layers: names of the layers.
    """
    eps = _ROUNDING * torch.finfo(torch.float32).eps
    least = eps * float(scores.detach().abs().nan_to_num(0, 0, 0).amax())
    for name, layer in zip(layers, maps, strict=False):
        A, G = layer.activations, layer.weights
        if isinstance(layer, SummedMap) or G.shape[1 - A.ndim :] != A.shape[1:]:
            continue  # weights of channels, which nothing cancelled, or a map that is summed already
        rank = A.ndim - 2
        wide = A if G.ndim == A.ndim else A.unsqueeze(1)
        products = (wide * G).abs().sum(-rank - 1).flatten(-rank)  # [N, (K,) positions]
        moved = products.sum(-1)
        terms = (
            (wide.abs().flatten(-rank).amax(-1) * G.abs().flatten(-rank).mean(-1)).sum(-1).maximum(products.amax(-1))
        )
        heat = layer(None, normalize=False).abs().flatten(-rank).amax(-1)
        small = (heat > 0) & ((moved < least) | (heat < eps * terms))
        if small.any():
            warn(
                f"the heatmap ({method.__name__}) may be nothing but rounding: what the target's gradient makes of layer "
                f"{name!r} cancels out, its greatest value is {float(heat[small].amax()):.1g}; name by layers= one that the "
                "target depends on, or take another method",
                DoubtWarning,
            )


def _saturated(scores: Tensor) -> bool:
    """Whether scores are probabilities that have reached 0 and 1."""
    if scores.ndim < 2 or not scores.is_floating_point():
        return False
    wide = scores.detach().float()
    within = bool(((wide >= 0) & (wide <= 1)).all())
    certain = ((wide < 1e-6) | (wide > 1 - 1e-6)).all(1)
    return within and bool(certain.any())
