"""``aug_smooth``: the mean of heatmaps over mirrored and rescaled images, as pytorch-grad-cam takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..model.inputs import Inputs
from .explanation import Explanation
from .ranges import Normalize, in_range

__all__ = ["mean_explanation"]

_FACTORS = (0.9, 1.0, 1.1)


def mean_explanation(
    explain: Callable[..., Explanation], inputs: Inputs, targets: Any, size: Any, normalize: Normalize
) -> Explanation:
    """The explanation of the images themselves, with the mean heatmap of all six variants.

    The targets of the images are those of every variant. Raises ``ValueError`` for sequences, which have no mirror
    image.
    """
    if inputs.image.ndim < 4:
        raise ValueError(f"aug_smooth mirrors pictures and volumes, got images {list(inputs.image.shape)}")
    own = normalize is True  # one range of all maps is that of their means
    plain = explain(inputs, targets, size, own)
    total = plain.heatmap.clone()
    for mirrored in (False, True):
        for factor in _FACTORS:
            if not mirrored and factor == 1:
                continue
            image = inputs.image.detach() * factor
            variant = inputs.with_image(image.flip(-1) if mirrored else image)
            heatmap = explain(variant, plain.targets, size, own).heatmap
            total += heatmap.flip(-1) if mirrored else heatmap
    mean = replace(plain, heatmap=total / (2 * len(_FACTORS)))
    if isinstance(normalize, bool):
        return mean
    rank = inputs.image.ndim - 2 - (plain.maps_per_image is not None)
    heatmap, scale = in_range(mean.heatmap, rank, normalize)
    return replace(mean, heatmap=heatmap, scale=scale)
