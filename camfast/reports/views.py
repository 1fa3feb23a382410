"""What a report puts first: pairs of classes that are confused, classes with their mean heat, images in useful orders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..brief import Brief
from .rows import NONE, Rows

__all__ = ["Images", "classes", "first_shown", "histogram", "pairs"]

PAIRS, SHOWN_OF_PAIR, SHOWN = 40, 6, 24
"""The pairs that are shown first, the images of each, and those of a page of images; the page's script has them too."""


@dataclass(frozen=True, repr=False)
class Images(Brief):
    """One value per image, of the rows that come first."""

    label: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, rows: Rows) -> Images:
        """The images of ``rows``."""
        first = rows.starts
        columns = rows.columns
        return cls(
            columns["label"][first], columns["prediction"][first], columns["probability"][first], rows.inside[first]
        )

    @property
    def labelled(self) -> np.ndarray:
        """Where label and prediction are both known."""
        return (self.label != NONE) & (self.prediction != NONE)

    @property
    def wrong(self) -> np.ndarray:
        """Where they differ."""
        return self.labelled & (self.label != self.prediction)


def pairs(images: Images) -> list[tuple[int, int, int]]:
    """True class, predicted class and how many images, the most frequent pair first."""
    wrong = images.wrong
    counts = Counter(zip(images.label[wrong].tolist(), images.prediction[wrong].tolist(), strict=True))
    return [(label, prediction, count) for (label, prediction), count in sorted(counts.items(), key=_by_count)]


def _by_count(item: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    return -item[1], item[0]


def histogram(images: Images, bins: int = 20) -> list[list[int]]:
    """Per bin of probability from 0 to 1: how many images were right, wrong, and without a label."""
    place = (np.nan_to_num(images.probability) * bins).astype(np.int64).clip(0, bins - 1)
    kinds = (images.labelled & ~images.wrong, images.wrong, ~images.labelled)
    return np.stack([np.bincount(place[kind], minlength=bins) for kind in kinds], 1).tolist()


def classes(rows: Rows, images: Images) -> list[dict[str, Any]]:
    """Each class that occurs: its images, how many are right, how often it is predicted, and the mean of its heat.

    The mean is over all rows whose target is the class. ``map`` is uint8 ``[h, w]``; ``crop`` is the mean width and
    height of what the network saw, for the shape of the picture.
    """
    known = images.labelled
    of_label = Counter(images.label[images.label != NONE].tolist())
    right = Counter(images.label[known & ~images.wrong].tolist())
    predicted = Counter(images.prediction[images.prediction != NONE].tolist())
    scored = Counter(images.label[known].tolist())
    heat = _mean_heat(rows)
    found = []
    for number in sorted({*of_label, *predicted, *heat}):
        mean, shape, count = heat.get(number, (None, (1, 1), 0))
        entry = {"class": number, "images": of_label[number], "scored": scored[number], "right": right[number]}
        found.append({**entry, "predicted": predicted[number], "maps": count, "map": mean, "crop": shape})
    return found


def _mean_heat(rows: Rows) -> dict[int, tuple[np.ndarray, tuple[float, float], int]]:
    """Per target: mean map, mean width and height of the crop, and how many maps there are."""
    targets = rows.columns["target"]
    found = {}
    order = np.argsort(targets, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(targets[order])) + 1) if len(order) else []:
        sizes = Counter(rows.maps[i].shape for i in members)
        size = max(sizes, key=lambda shape: (sizes[shape], shape))  # other sizes are resized to the most frequent one
        total = np.zeros(size, np.float64)
        for i in members:
            one = rows.maps[i]
            total += one if one.shape == size else _resized(one, size)
        mean = np.rint(total / len(members)).astype(np.uint8)
        left, top, right, bottom = rows.crop[members].mean(0, dtype=np.float64).tolist()
        found[int(targets[members[0]])] = (mean, (right - left, bottom - top), len(members))
    return found


def _resized(one: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    values = torch.from_numpy(one)[None, None].float()
    return torch.nn.functional.interpolate(values, size, mode="bilinear")[0, 0].numpy()


def first_shown(images: Images, found: list[tuple[int, int, int]]) -> list[int]:
    """The images that a page shows before anything is asked of it, those that are most looked at first; then all others."""
    sure = np.nan_to_num(images.probability.astype(np.float64))
    everyone = np.arange(len(sure))
    shown: list[np.ndarray] = []
    for label, prediction, _ in found[:PAIRS]:
        members = np.flatnonzero(images.wrong & (images.label == label) & (images.prediction == prediction))
        shown.append(members[np.argsort(-sure[members], kind="stable")][:SHOWN_OF_PAIR])
    errors_first = np.lexsort((everyone, -sure, ~images.wrong))
    leaving = np.flatnonzero(~np.isnan(images.inside))
    leaving = leaving[np.argsort(images.inside[leaving], kind="stable")]
    for order in (errors_first, leaving, np.lexsort((everyone, sure)), np.lexsort((everyone, -sure))):
        shown.append(order[:SHOWN])
    shown.append(everyone)
    return list(dict.fromkeys(np.concatenate(shown).tolist()))
