"""ROAD: remove and debias. How the score changes when the most, and the least, relevant pixels are imputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..model.inputs import Images
from ..targets import ClassNames, Targets
from .heat import Heat
from .imputation import NOISE, noisy_linear_imputation
from .scores import Score, Scored

__all__ = ["PERCENTILES", "Road", "removed_pixels", "road", "road_of"]

PERCENTILES = (20.0, 40.0, 60.0, 80.0)


@dataclass(repr=False)
class Road(Brief):
    """Changes of the score, ``[N, M]`` or ``[N, K, M]`` for M percentiles; NaN where the heat is not finite.

    Attributes:
        percentiles: what lies at or above a percentile of the heat is imputed.
        most_relevant_first: the score of the imputed image less that of the image: better the lower.
        least_relevant_first: the same where what lies below the percentile from the top is imputed: better the higher.
    """

    percentiles: tuple[float, ...]
    most_relevant_first: Tensor
    least_relevant_first: Tensor

    @property
    def combined(self) -> Tensor:
        """Half the difference of the two means over percentiles, ``[N]`` or ``[N, K]``; more is better."""
        return (self.least_relevant_first.mean(-1) - self.most_relevant_first.mean(-1)) / 2


def road(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = NOISE,
    seed: int | None = 0,
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Road:
    """The change of the score when pixels are replaced by noisy linear imputation (Rong 2022, https://arxiv.org/abs/2202.00449).

    The imputed pixels are those that a percentile of the heat parts off, as pytorch-grad-cam takes them: the hottest at or above
    it (most relevant first), and the coldest at or above it in the heat turned around (least relevant first). An image's noise
    is the same for all percentiles and maps, so that methods are compared under the same noise.

    Args:
        model: the model that was explained.
        images: ``[N, C, H, W]``, as it takes them.
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]`` or ``[N, K, H, W]``.
        targets: as explainers take them; None: the explanation's own, or each image's top class.
        percentiles: from 0 to 100.
        noise: standard deviation of the imputed pixels' noise, in the images' units.
        seed: of the noise; None: from PyTorch's global generator.
        score: ``"probability"`` or ``"output"``.
        batch_size: imputed images per pass; None: as many as fit.
        class_names: for targets by name.

    Returns:
        A :class:`Road`; its ``combined`` is the metric.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    found = Scored(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    return road_of(found, percentiles, noise, seed)


def road_of(found: Scored, percentiles: Sequence[float], noise: float, seed: int | None) -> Road:
    """ROAD of what was found."""
    images = found.images
    if images.ndim != 4:
        raise ValueError(f"road needs images [N, C, H, W], got {list(images.shape)}")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = torch.randn(images.shape, generator=generator).to(images) * noise
    M, P = len(percentiles), found.pairs
    removed = torch.stack(
        [removed_pixels(heat, percentiles) for heat in (found.heat, 1 - found.heat)]
    )  # [2, M, P, H, W]
    removed = removed.flatten(0, 2)
    pairs = torch.arange(P, device=images.device).repeat(2 * M)

    def imputed(part: Tensor) -> Tensor:
        which = found.image_of[pairs[part]]
        return noisy_linear_imputation(images[which], removed[part], drawn[which])

    changes = (found.scores(pairs, imputed).view(2, M, P) - found.own).movedim(1, 2)
    most, least = (found.shaped(change) for change in changes)
    return Road(tuple(percentiles), most, least)


def removed_pixels(heat: Tensor, percentiles: Sequence[float]) -> Tensor:
    """Where each plane of ``heat`` ``[P, H, W]`` is at or above each of its percentiles: bool ``[M, P, H, W]``.

    Percentiles are interpolated linearly between two values, as NumPy does. Raises ``ValueError`` for those that are none.
    """
    if not percentiles or not all(0 <= percentile <= 100 for percentile in percentiles):
        raise ValueError(f"percentiles must be numbers from 0 to 100, got {list(percentiles)}")
    ordered = heat.flatten(1).sort(1).values
    thresholds = []
    for percentile in percentiles:
        place = percentile / 100 * (ordered.shape[1] - 1)
        low = min(int(place), ordered.shape[1] - 1)
        high = min(low + 1, ordered.shape[1] - 1)
        thresholds.append(torch.lerp(ordered[:, low], ordered[:, high], place - low))
    return heat >= torch.stack(thresholds)[..., None, None]
