"""Guided attention, GAIN: what is left of the image without its heat shall not speak for the class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..model.outputs import scores_of
from ..model.precision import wide
from .heat import Reduction, check_finite, checked, reduced
from .masks import Boxes, Masks, inside_of

__all__ = ["attention_mining", "guided_attention", "soft_erase"]


def soft_erase(
    images: Tensor, heat: Tensor, threshold: float = 0.5, sharpness: float = 10.0, fill: float | Tensor = 0.0
) -> Tensor:
    """The images with what the heat lies on erased, by a soft edge through which gradients come.

    ``images - T(heat) * (images - fill)`` with ``T(heat) = sigmoid(sharpness * (heat - threshold))`` (Li 2018,
    https://arxiv.org/abs/1802.10171; its sigma is ``threshold``, its omega ``sharpness``).

    Args:
        images: floating ``[N, C, H, W]``.
        heat: in [0, 1], ``[N, H, W]`` or ``[N, K, H, W]``, of the images' height and width.
        threshold: heat of this value erases half.
        sharpness: of the edge; the heat's unit is 1.
        fill: what is left, a number or as it broadcasts to the images, ``[C, 1, 1]``. 0 is the mean colour of images that
            were standardised.

    Returns:
        ``[N, C, H, W]``, or ``[N, K, C, H, W]``, as ``images`` in dtype.

    Raises:
        TypeError: for what is no floating tensor.
        ValueError: for heat that is not finite, which names the images, and shapes that do not fit.
    """
    return _erased(images, checked(heat), threshold, sharpness, fill)


def _erased(images: Tensor, heat: Tensor, threshold: float, sharpness: float, fill: float | Tensor) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"images must be a floating tensor, got {type(images).__name__}")
    if images.ndim != 4 or len(images) != len(heat) or images.shape[-2:] != heat.shape[-2:]:
        raise ValueError(f"images must be [N, C, H, W] of the heat's size {list(heat.shape)}, got {list(images.shape)}")
    erased = torch.sigmoid(sharpness * (heat - threshold)).to(images.dtype).unsqueeze(-3)
    pictures = images if heat.ndim == 3 else images[:, None]
    return pictures - erased * (pictures - fill)


def attention_mining(
    model: nn.Module,
    images: Tensor,
    heat: Tensor,
    targets: Tensor,
    *,
    threshold: float = 0.5,
    sharpness: float = 10.0,
    fill: float | Tensor = 0.0,
    probabilities: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The score of the class on the images whose heat was erased: attention mining, the self-guidance of GAIN.

    ``mean over targets of s[target](soft_erase(images, heat))`` (Li 2018, https://arxiv.org/abs/1802.10171). It is small
    where the heat covers all that speaks for the class, and it needs no annotation. GAIN adds it to the
    classification's loss, and where masks exist 10 times ``guided_attention``.

    It costs a second pass of the model, in the mode that the model is in: batch norm sees the erased images too.

    Args:
        model: takes ``[M, C, H, W]`` and returns scores ``[M, classes]``, or something that holds them.
        images: floating ``[N, C, H, W]``.
        heat: in [0, 1], ``[N, H, W]``, or ``[N, K, H, W]`` for K targets, of the images' height and width.
        targets: classes, int64 ``[N]``, or ``[N, K]``.
        threshold: as in ``soft_erase``.
        sharpness: as in ``soft_erase``.
        fill: as in ``soft_erase``.
        probabilities: what makes the score of a class from logits ``[M, classes]``; None: softmax. ``torch.sigmoid`` where
            classes do not exclude one another.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean of probabilities, or a value per map.

    Raises:
        TypeError: for what is no floating tensor, or targets that are no classes.
        ValueError: for heat or scores that are not finite, which names the images, and shapes that do not fit.
    """
    heat = checked(heat)
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        got = f"dtype {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(f"targets must be an int64 tensor of classes, got {got}")
    if targets.shape != heat.shape[:-2]:
        raise ValueError(f"targets must be a class for each map of {list(heat.shape)}, got {list(targets.shape)}")
    erased = _erased(images, heat, threshold, sharpness, fill)
    erased = erased if heat.ndim == 3 else erased.flatten(0, 1)
    logits = wide(scores_of(model(erased), len(erased)))
    if not torch.compiler.is_compiling():
        check_finite(logits.unflatten(0, targets.shape), "scores of the erased images")
    found = logits.softmax(1) if probabilities is None else probabilities(logits)
    own = found.gather(1, targets.reshape(-1, 1).to(found.device)).reshape(targets.shape)
    return reduced(own, weights, reduction)


def guided_attention(
    heat: Tensor,
    masks: Masks | None = None,
    *,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The mean squared difference of heat and mask: the guidance of GAIN by masks, its extension.

    ``mean over positions of (heat - inside) ** 2`` (Li 2018, https://arxiv.org/abs/1802.10171). It wants all of
    the mask hot; where heat may lie anywhere inside, ``energy_outside`` asks for less.

    Args:
        heat: in [0, 1], ``[N, H, W]`` or ``[N, K, H, W]``.
        masks: where heat may lie, as in ``inside_of``. Without annotation an image counts nothing; an empty mask wants no
            heat at all.
        boxes: in place of masks, x0, y0, x1, y1 in pixels.
        box_size: height and width of the picture that the boxes are in; None: the heat's.
        weights: ``[N]`` or ``[N, K]``, how much each counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, in [0, 1] for the mean, or a value per map.

    Raises:
        TypeError: for what is no floating tensor, or annotation of another type.
        ValueError: for heat that is not finite, which names the images, and annotation or weights that do not fit it.
    """
    heat = checked(heat)
    inside, present = inside_of(heat, masks, boxes, box_size)
    return reduced((heat - inside).square().mean((-2, -1)), weights, reduction, present)
