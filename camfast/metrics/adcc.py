"""ADCC: average drop, coherency and complexity in one number (Poppi 2021, https://arxiv.org/abs/2104.10252)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..brief import Brief
from ..methods.explainer import Explainer
from ..targets import ClassNames, Targets
from .again import Explain, explained, plane_targets
from .confidence import confidence_of
from .heat import Heat, heat_tensor
from .scores import Score, Scored
from .similarity import pearson

__all__ = ["ADCC", "adcc", "adcc_of", "coherency", "complexity"]


@dataclass(repr=False)
class ADCC(Brief):
    """The parts, ``[N]`` or ``[N, K]``, each in [0, 1]; NaN where the heat is not finite.

    Attributes:
        coherency: how alike the heat is to that of the image times it; more is better.
        complexity: the heat's mean; less is better.
        average_drop: the share of the score that is lost when the image is multiplied by its heat; less is better.
    """

    coherency: Tensor
    complexity: Tensor
    average_drop: Tensor

    @property
    def value(self) -> Tensor:
        """The harmonic mean of coherency, 1 - complexity and 1 - average drop; 0 where one of them is 0 (equation 5)."""
        parts = torch.stack([self.coherency, 1 - self.complexity, 1 - self.average_drop])
        return 3 / (1 / parts.clamp(min=0)).sum(0)


def complexity(heat: Heat) -> Tensor:
    """The mean of each map's magnitude, ``[N]`` or ``[N, K]`` (Poppi 2021, equation 4). Less is better.

    Args:
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]`` or ``[N, K, H, W]``, in [0, 1].

    Raises ``TypeError`` for what is no heat. NaN where it is not finite.
    """
    planes = heat_tensor(heat)
    return planes.abs().mean((-2, -1))


def coherency(explainer: Explain, images: Tensor, heat: Heat | None = None, targets: Targets = None) -> Tensor:
    """How alike a map is to that of the image times it: ``(1 + correlation) / 2``, ``[N]`` or ``[N, K]``. More is better.

    Pearson's correlation of ``CAM(x)`` and ``CAM(x * CAM(x))`` (Poppi 2021, equation 3, brought to [0, 1]); 0.5, as for no
    correlation, where one of the two is constant.

    Args:
        explainer: of the method, or a callable ``(images, targets)`` that gives an explanation or a heatmap.
        images: ``[N, C, H, W]``.
        heat: of the images, where it is there already.
        targets: as explainers take them; those of the heat are the targets of both maps.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    planes, known, many, targets = explained(explainer, images, heat, targets)
    return _coherency(explainer, images, planes, known, many, targets)


def _coherency(
    explainer: Explain, images: Tensor, planes: Tensor, known: Tensor, many: int | None, targets: object
) -> Tensor:
    """Of heat ``[P, H, W]``; for K targets an image each target's map masks an image of its own."""
    if many is None:
        again, finite = plane_targets(explainer, images * planes.unsqueeze(1).to(images.dtype), targets)
    else:
        columns = [
            plane_targets(explainer, images * planes[k::many].unsqueeze(1).to(images.dtype), _column(targets, k))
            for k in range(many)
        ]
        again, finite = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*columns, strict=True))
    found = ((1 + pearson(planes, again).nan_to_num(0.0)) / 2).to(planes.dtype)
    found = found.where(known & finite, torch.nan)
    return found if many is None else found.unflatten(0, (-1, many))


def _column(targets: object, k: int) -> object:
    if isinstance(targets, Tensor):
        return targets[:, k]
    return [row[k] for row in targets]  # type: ignore[attr-defined]


def adcc(
    explainer: Explainer,
    images: Tensor,
    heat: Heat | None = None,
    targets: Targets = None,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> ADCC:
    """ADCC and its parts (Poppi 2021, https://arxiv.org/abs/2104.10252).

    Args:
        explainer: of the method; images are explained again for the coherency, and its model is asked for the drop.
        images: ``[N, C, H, W]``.
        heat: of the images, in [0, 1], where it is there already.
        targets: as explainers take them.
        score: ``"probability"`` or ``"output"``, of the average drop.
        batch_size: changed images per pass; None: as many as fit.
        class_names: for targets by name.

    Returns:
        An :class:`ADCC`; its ``value`` is the metric.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    if not isinstance(explainer, Explainer):
        raise TypeError(f"adcc needs an explainer, such as camfast.GradCAM(model), got {type(explainer).__name__}")
    heat = explainer(images, targets) if heat is None else heat
    found = Scored(explainer.model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    return adcc_of(explainer, found)


def adcc_of(explainer: Explain, found: Scored) -> ADCC:
    """Of what was found."""
    targets, planes = found.chosen.targets, found.heat
    together = _coherency(explainer, found.images, planes, found.known, found.per_image, targets)
    mean = found.shaped(planes.abs().mean((-2, -1)))
    return ADCC(together, mean, confidence_of(found).drop)
