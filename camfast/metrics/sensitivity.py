"""Max-sensitivity: how far a heatmap moves when its image moves a little (Yeh 2019, https://arxiv.org/abs/1901.09392)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods.scoring import counted
from ..targets import Targets
from .again import Explain, explained, plane_targets
from .heat import Heat

__all__ = ["max_sensitivity"]


def max_sensitivity(
    explainer: Explain,
    images: Tensor,
    heat: Heat | None = None,
    targets: Targets = None,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int | None = 0,
) -> Tensor:
    """The largest change of a map under noise, in shares of its length, ``[N]`` or ``[N, K]`` (definition 3.3). Less is better.

    ``max ||CAM(x + d) - CAM(x)|| / ||CAM(x)||`` over noise d uniform in ``[-radius, radius]``, for the same targets.

    Args:
        explainer: of the method, or a callable ``(images, targets)`` that gives an explanation or a heatmap.
        images: floating ``[N, C, H, W]``.
        heat: of the images, where it is there already.
        targets: as explainers take them; those of the heat are the targets of every map.
        radius: of the noise, in the images' units.
        samples: how many times noise is drawn for each image.
        seed: of the noise, drawn on the CPU; None: from PyTorch's global generator.

    Returns:
        NaN for a blank map, and where a map is not finite.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    if not radius > 0:
        raise ValueError(f"radius must be above 0, got {radius!r}")
    counted(samples, "samples")
    planes, known, many, targets = explained(explainer, images, heat, targets)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    length = planes.flatten(1).norm(dim=1)
    worst = torch.zeros_like(length)
    for _ in range(samples):
        noise = (2 * torch.rand(images.shape, generator=generator) - 1) * radius
        moved, finite = plane_targets(explainer, images + noise.to(images), targets)
        worst = torch.maximum(worst, (moved - planes).flatten(1).norm(dim=1).where(finite, torch.nan))
    found = torch.where(known & (length > 0), worst / length, torch.nan)
    return found if many is None else found.unflatten(0, (-1, many))
