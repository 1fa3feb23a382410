"""Right for the right reasons: what speaks for a class outside the mask is punished, in the image or in the heat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.precision import wide
from .heat import Reduction, check_finite, checked, reduced
from .masks import Boxes, Masks, inside_of

__all__ = ["right_for_the_right_reasons", "right_for_the_right_reasons_heat"]


def right_for_the_right_reasons(
    scores: Tensor,
    images: Tensor,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The squared gradient of the log probabilities by the pixels outside the mask.

    ``sum over pixels d of (outside[d] * d(sum over classes k of log p[k]) / d images[d]) ** 2`` for each image (Ross 2017,
    https://arxiv.org/abs/1703.03717, where the images are summed). Its second derivative goes through the whole network;
    ``right_for_the_right_reasons_heat`` asks the same of the heat, at a fraction of the cost.

    Args:
        scores: logits ``[N, classes]`` that were computed from ``images``.
        images: floating ``[N, C, H, W]``, with ``requires_grad`` set before the pass.
        masks: where heat may lie, as in ``inside_of``, of the images. Without annotation an image counts nothing; an empty
            mask punishes the whole image.
        boxes: in place of masks, x0, y0, x1, y1 in pixels.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        weights: ``[N]``, how much each image counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar of 0 or more, or ``[N]``.

    Raises:
        TypeError: for what is no floating tensor, or annotation of another type.
        ValueError: for images that the scores have no gradient to, scores or gradients that are not finite, which names the
            images, and annotation or weights that do not fit.
    """
    _check(scores, images)
    total = wide(scores).log_softmax(1).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("scores must depend on the images, got no gradient; pass the very tensor that the network saw")
    gradient = checked(gradient, "the images' gradient", graph=False)
    inside, present = inside_of(gradient[:, 0], masks, boxes, box_size)
    wrong = ((1 - inside)[:, None] * gradient).square().sum((1, 2, 3))
    return reduced(wrong, weights, reduction, present)


def right_for_the_right_reasons_heat(
    heat: Tensor,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The mean square of the heat outside the mask: right for the right reasons on Grad-CAM, RRR-G.

    ``mean over positions of (outside * heat) ** 2`` (Schramowski 2020, https://arxiv.org/abs/2001.05371, where positions are
    summed; their mean keeps the loss the same at every size).

    Args:
        heat: ``[N, H, W]`` or ``[N, K, H, W]``, in [0, 1] or raw.
        masks: where heat may lie, as in ``inside_of``. Without annotation an image counts nothing; an empty mask punishes
            all heat.
        boxes: in place of masks, x0, y0, x1, y1 in pixels.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean of heat in [0, 1], or a value per map; 0 for a blank one.

    Raises:
        TypeError: for what is no floating tensor, or annotation of another type.
        ValueError: for heat that is not finite, which names the images, and annotation or weights that do not fit it.
    """
    heat = checked(heat)
    inside, present = inside_of(heat, masks, boxes, box_size)
    wrong = ((1 - inside) * heat).square().mean((-2, -1))
    return reduced(wrong, weights, reduction, present)


def _check(scores: Tensor, images: Tensor) -> None:
    for name, tensor in (("scores", scores), ("images", images)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {type(tensor).__name__}")
    if images.ndim != 4 or scores.ndim != 2 or len(scores) != len(images):
        got = f"{list(scores.shape)} and {list(images.shape)}"
        raise ValueError(f"scores must be [N, classes] of images [N, C, H, W], got {got}")
    if not images.requires_grad or not scores.requires_grad:
        raise ValueError(
            "scores must have a graph to the images, got none; call images.requires_grad_() before the pass"
        )
    if not torch.compiler.is_compiling():
        check_finite(scores, "scores")
