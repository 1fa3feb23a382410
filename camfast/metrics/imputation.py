"""Noisy linear imputation, with which ROAD removes pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops

__all__ = ["NOISE", "noisy_linear_imputation"]

NOISE = 0.01
"""The standard deviation of the paper's noise."""


def noisy_linear_imputation(
    images: Tensor,
    removed: Tensor,
    noise: float | Tensor = NOISE,
    *,
    generator: torch.Generator | None = None,
    tolerance: float = NOISE / 5,
) -> Tensor:
    """``images`` with new values at the ``removed`` pixels (Rong 2022, section 4.2, https://arxiv.org/abs/2202.00449).

    A removed pixel is the mean of its eight neighbours, whether these are removed or not, direct ones with a weight of 1/6
    and diagonal ones of 1/12, and noise. What lies outside the picture has no weight. This system of equations has one
    solution as long as a pixel is left; where none is, the image's own mean takes its place. How it is solved:
    :func:`camfast.ops.linear_imputation`.

    Args:
        images: floating ``[B, C, H, W]``.
        removed: bool ``[B, H, W]``.
        noise: standard deviation, in the images' units, of the noise at removed pixels; or the noise, ``[B, C, H, W]``.
        generator: of the noise, on the CPU; None: PyTorch's global one.
        tolerance: how far the solution may be from the exact one, in the images' units, as the solver estimates it.

    Returns:
        ``[B, C, H, W]`` in the images' dtype; pixels that are not removed are the images' own.

    Raises:
        TypeError: for images that are not floating, and a mask that is not bool.
        ValueError: for shapes that do not fit.
    """
    drawn: Tensor | None = None
    if isinstance(noise, Tensor):
        drawn = noise
    elif noise:
        drawn = torch.randn(images.shape, generator=generator).mul_(noise).to(images.device)
    return ops.linear_imputation(images, removed, drawn, tolerance)
