"""Removed pixels filled in as weighted means of their neighbours, a plane at a time on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .arguments import check_floating, kind_of
from .multigrid import TOLERANCE
from .registration import call, register

__all__ = ["linear_imputation"]


def linear_imputation(
    images: Tensor, removed: Tensor, noise: Tensor | None = None, tolerance: float = TOLERANCE
) -> Tensor:
    """``images`` with new values at the ``removed`` pixels (Rong 2022, section 4.2, https://arxiv.org/abs/2202.00449).

    A removed pixel is the mean of its eight neighbours, whether these are removed or not, direct ones with a weight of 1/6
    and diagonal ones of 1/12. What lies outside the picture has no weight. This system of equations has one solution as
    long as a pixel is left; where none is, the mean of the image's channel takes its place. It is solved by conjugate
    gradients and multigrid, in fp32; fp64, and images on other devices than the CPU, in plain PyTorch. It has no derivative.

    Args:
        images: floating ``[B, C, H, W]``.
        removed: bool ``[B, H, W]``.
        noise: ``[B, C, H, W]``, added to the solution.
        tolerance: how far the solution may be from the exact one, in the images' units, as the solver estimates it.

    Returns:
        ``[B, C, H, W]`` in the images' dtype; pixels that are not removed are the images' own. Where one of these is not
        finite, the channel's removed pixels are NaN.

    Raises:
        TypeError: for images that are not floating, and a mask that is not bool.
        ValueError: for shapes, devices or a tolerance that do not fit.
    """
    check_floating(images, "images")
    if not isinstance(removed, Tensor) or removed.dtype != torch.bool:
        raise TypeError(f"removed must be a bool tensor, got {kind_of(removed)}")
    if images.ndim != 4 or removed.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"expected images [B, C, H, W] and removed pixels [B, H, W], got {list(images.shape)} and {list(removed.shape)}"
        )
    if noise is not None:
        check_floating(noise, "noise")
        if noise.shape != images.shape:
            raise ValueError(f"noise must be as large as the images {list(images.shape)}, got {list(noise.shape)}")
    for other in (removed, noise):
        if other is not None and other.device != images.device:
            raise ValueError(f"images, mask and noise must be on one device, got {images.device} and {other.device}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    images, noise = images.detach(), None if noise is None else noise.detach()
    if images.device.type != "cpu" or images.dtype == torch.float64:
        return reference.linear_imputation(images, removed, noise, tolerance)
    noise = None if noise is None else noise.float()
    found = call(torch.ops.camfast.linear_imputation.default, images.float(), removed, noise, tolerance)
    return found.to(images.dtype)


def _fake(images, removed, noise=None, tolerance=TOLERANCE):
    return images.new_empty(images.shape)


def _fallback(images, removed, noise=None, tolerance=TOLERANCE):
    return reference.linear_imputation(images, removed, noise, tolerance).contiguous()


register("linear_imputation", _fake, _fallback)
