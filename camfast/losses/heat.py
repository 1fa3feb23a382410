"""What every loss begins and ends with: heat that is checked, and the mean over the images that count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import DoubtWarning, warn
from ..model.precision import wide

__all__ = ["BLANK", "Reduction", "check_finite", "checked", "in_own_range", "reduced", "same_maps"]

Reduction = Literal["mean", "sum", "none"]

BLANK = 1e-7
"""A map whose total, range or length is no more than this is blank: there is nothing in it to divide by."""


def checked(heat: Tensor, name: str = "heat", graph: bool = True) -> Tensor:
    """``heat`` in fp32, or in fp64 as it is, after a look at its type, its shape and its values.

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``.
        name: what messages call it.
        graph: whether it is heat to train on, so that its lack of a graph is worth a warning.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for another shape, and for values that are not finite, which names the images.
    """
    if not isinstance(heat, Tensor) or not heat.is_floating_point():
        got = str(heat.dtype).removeprefix("torch.") if isinstance(heat, Tensor) else type(heat).__name__
        raise TypeError(f"{name} must be a floating tensor, such as explainer(...).heatmap, got {got}")
    if heat.ndim not in (3, 4):
        raise ValueError(f"{name} must be [N, H, W] or [N, K, H, W], got {list(heat.shape)}")
    if torch.compiler.is_compiling():
        return wide(heat)
    check_finite(heat, name)
    if graph and torch.is_grad_enabled() and not heat.requires_grad:
        warn(
            f"{name} has no graph, so that its loss trains nothing; explainer(images, targets, differentiable=True) gives "
            "heat that has one, and torch.no_grad() around the loss says that it shall only be measured",
            DoubtWarning,
        )
    return wide(heat)


def check_finite(values: Tensor, name: str = "heat") -> None:
    """Raises ``ValueError`` where ``values`` ``[N, ...]`` on the CPU are not finite, and names the images.

    Elsewhere nobody looks: it would make every step wait for the device.
    """
    if values.device.type != "cpu" or bool(values.isfinite().all()):
        return
    bad = (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    which = (
        f"image {bad[0]}" if len(bad) == 1 else f"images {', '.join(map(str, bad[:12]))}" + ", ..." * (len(bad) > 12)
    )
    raise ValueError(
        f"{name} must be finite, got NaN or infinity in {which} of {len(values)}; the network's activations or gradients "
        "are not finite there"
    )


def same_maps(heat: Tensor, other: Tensor, name: str) -> None:
    """Raises ``ValueError`` where ``other`` holds other maps than ``heat``; the size of the maps may differ."""
    if other.shape[:-2] != heat.shape[:-2]:
        raise ValueError(f"{name} must have a map for each of heat {list(heat.shape)}, got {list(other.shape)}")


def in_own_range(heat: Tensor) -> Tensor:
    """Each map of ``[..., H, W]`` from 0 to 1 by its own range; a blank one is 0, with a gradient of zero."""
    low = heat.amin((-2, -1), keepdim=True)
    span = heat.amax((-2, -1), keepdim=True) - low
    return torch.where(span > BLANK, (heat - low) / torch.where(span > BLANK, span, 1), 0)


def reduced(losses: Tensor, weights: Tensor | None, reduction: Reduction, present: Tensor | None = None) -> Tensor:
    """``losses`` ``[N]`` or ``[N, K]`` as one number.

    Args:
        losses: one for each map.
        weights: ``[N]`` or as ``losses``; None: all the same.
        reduction: ``"mean"`` over the sum of the weights (0 where that is 0), ``"sum"``, or ``"none"``, which returns each
            loss times its weight.
        present: bool ``[N]`` or as ``losses``; the others have the weight 0.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    counted = losses.new_ones(losses.shape)
    for given in (weights, present):
        if given is not None:
            counted = counted * _per_map(given, losses)
    weighted = losses * counted
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    total = counted.sum()
    return weighted.sum() / torch.where(total != 0, total, 1)


def _per_map(weights: Tensor, losses: Tensor) -> Tensor:
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    if weights.shape not in (losses.shape, losses.shape[:1]):
        raise ValueError(f"weights must be [N] or as the maps {list(losses.shape)}, got {list(weights.shape)}")
    return weights.to(losses) if weights.ndim == losses.ndim else weights.to(losses)[:, None]
