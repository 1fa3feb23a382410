"""The metrics that :func:`camfast.compare` knows by name, each as what it makes of one method's maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..brief import Brief
from ..losses.masks import Boxes, Masks
from ..methods.explainer import Explainer, Layers
from ..methods.explanation import Explanation
from .adcc import adcc_of, coherency, complexity
from .box_accuracy import found_of, overlaps_of
from .confidence import confidence_of
from .curves import curve_of
from .fidelity import infidelity_of
from .localisation import energy_inside, iou, pointing_game
from .randomisation import layer_randomisation
from .removal import PERCENTILES, road_of
from .scores import Scored
from .sensitivity import max_sensitivity

__all__ = ["METRICS", "Measured", "Metric"]


@dataclass(repr=False)
class Measured(Brief):
    """One method's maps of some images, and what a metric may ask for.

    Attributes:
        explainer: of the method.
        result: its explanation of the images.
        scored: the same with the model's probabilities of changed images; ``output`` with the model's own scores.
        masks, boxes, box_size: where the objects are, if that was told.
        layers, options: what the explainer was made with.
    """

    explainer: Explainer
    result: Explanation
    scored: Scored
    output: Callable[[], Scored]
    masks: Masks | None = None
    boxes: Boxes | None = None
    box_size: tuple[int, int] | None = None
    layers: Layers = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> Tensor:
        """``[N, C, H, W]``."""
        return self.scored.images

    @property
    def objects(self) -> dict[str, Any]:
        """Masks or boxes, as metrics of localisation take them."""
        given = {"masks": self.masks, "boxes": self.boxes}
        if self.boxes is not None:
            given["box_size"] = self.box_size  # type: ignore[assignment]
        return given


@dataclass(frozen=True, repr=False)
class Metric(Brief):
    """A metric for :func:`camfast.compare`.

    Args:
        name: in tables.
        better: ``"higher"`` or ``"lower"``.
        measure: gives a value per map, ``[N]`` or ``[N, K]``, of a :class:`camfast.metrics.measures.Measured`.
        objects: whether it needs masks or boxes, or ``"boxes"`` alone.
        of_all: where a map's value depends on the others': makes the values of what ``measure`` gave of all images.
    """

    name: str
    better: Literal["higher", "lower"]
    measure: Callable[[Measured], Tensor]
    objects: bool | Literal["boxes"] = False
    of_all: Callable[[Tensor], Tensor] | None = None


def _sensitivity(m: Measured) -> Tensor:
    return max_sensitivity(m.explainer, m.images, m.result)


def _randomisation(m: Measured) -> Tensor:
    found = layer_randomisation(
        m.explainer.model, m.images, type(m.explainer), m.result.targets, layers=m.layers, steps=1, **m.options
    )
    return found.similarity[-1].abs()  # the sign of a correlation by chance says nothing


def _overlaps(m: Measured) -> Tensor:
    assert m.boxes is not None  # compare asked for them
    return overlaps_of(m.result, m.boxes, m.box_size)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("insertion", "higher", lambda m: curve_of(m.scored, "insertion", 20, "blur").area),
        Metric("deletion", "lower", lambda m: curve_of(m.scored, "deletion", 20, "zeros").area),
        Metric("road", "higher", lambda m: road_of(m.scored, PERCENTILES, 0.01, 0).combined),
        Metric("average_drop", "lower", lambda m: confidence_of(m.scored).drop),
        Metric("average_increase", "higher", lambda m: confidence_of(m.scored).increase),
        Metric("average_gain", "higher", lambda m: confidence_of(m.scored).gain),
        Metric("adcc", "higher", lambda m: adcc_of(m.explainer, m.scored).value),
        Metric("coherency", "higher", lambda m: coherency(m.explainer, m.images, m.result)),
        Metric("complexity", "lower", lambda m: complexity(m.result)),
        Metric("max_sensitivity", "lower", _sensitivity),
        Metric("infidelity", "lower", lambda m: infidelity_of(m.output(), 50, 0.25, True, 0)),
        Metric("randomisation", "lower", _randomisation),
        Metric("pointing_game", "higher", lambda m: pointing_game(m.result, **m.objects), objects=True),
        Metric("energy_inside", "higher", lambda m: energy_inside(m.result, **m.objects), objects=True),
        Metric("iou", "higher", lambda m: iou(m.result, **m.objects), objects=True),
        Metric("max_box_acc", "higher", _overlaps, objects="boxes", of_all=found_of),
    )
}
"""By name: what :func:`camfast.compare` and ``camfast evaluate`` take. ``randomisation`` is the similarity to the heat of a
network that is random altogether: the magnitude of Spearman's correlation."""
