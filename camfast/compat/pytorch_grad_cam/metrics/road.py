"""ROAD: remove and debias (Rong 2022, https://arxiv.org/abs/2202.00449). Removed pixels are the solution of a linear system.

Needs SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import require
from ..strictness import is_strict
from .perturbation_confidence import (
    _PERCENTILES,
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)

__all__ = [
    "NoisyLinearImputer",
    "ROADCombined",
    "ROADLeastRelevantFirst",
    "ROADLeastRelevantFirstAverage",
    "ROADMostRelevantFirst",
    "ROADMostRelevantFirstAverage",
    "neighbors_weights",
]

neighbors_weights = [
    ((1, 1), 1 / 12),
    ((0, 1), 1 / 6),
    ((-1, 1), 1 / 12),
    ((1, -1), 1 / 12),
    ((0, -1), 1 / 6),
    ((-1, -1), 1 / 12),
    ((1, 0), 1 / 6),
    ((-1, 0), 1 / 6),
]
"""Offsets ``(rows, columns)`` of the neighbours that a removed pixel is a mean of, and their shares."""


class NoisyLinearImputer:
    """Fills removed pixels with weighted means of their neighbours, removed ones too, and noise.

    ``noise`` is the standard deviation, drawn from PyTorch's global generator. The original takes
    :data:`neighbors_weights` whatever ``weighting`` is given; strict mode does, too.
    """

    def __init__(self, noise: float = 0.01, weighting: Any = neighbors_weights) -> None:
        self.noise = noise
        self.weighting = neighbors_weights if weighting is None else weighting

    @staticmethod
    def add_offset_to_indices(
        indices: np.ndarray, offset: tuple[int, int], mask_shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether the pixels ``indices``, counted row by row, stay inside the picture when moved; and where they are."""
        height, width = mask_shape
        row, column = indices // width + offset[0], indices % width + offset[1]
        outside = (row < 0) | (column < 0) | (row >= height) | (column >= width)
        return ~outside, indices + offset[0] * width + offset[1]

    @staticmethod
    def setup_sparse_system(mask: np.ndarray, img: np.ndarray, neighbors_weights: Any) -> tuple[Any, np.ndarray]:
        """The system of the pixels where ``mask`` ``[H, W]`` is 0: a sparse matrix ``[M, M]``, and ``[M, C]``.

        ``img`` is ``[C, H * W]``. What lies outside the picture has no share.
        """
        removed = np.flatnonzero(mask.reshape(-1) == 0)
        place = np.full(mask.size, -1)
        place[removed] = np.arange(len(removed))
        matrix = require("scipy.sparse", "compat").lil_matrix((len(removed), len(removed)))
        known, diagonal = np.zeros((len(removed), img.shape[0])), np.full(len(removed), -1.0)
        for offset, weight in neighbors_weights:
            inside, neighbors = NoisyLinearImputer.add_offset_to_indices(removed, offset, mask.shape)
            (rows,), neighbors = np.nonzero(inside), neighbors[inside]
            diagonal[~inside] += weight
            unknown = place[neighbors] >= 0
            matrix[rows[unknown], place[neighbors[unknown]]] = weight
            known[rows[~unknown]] -= weight * img[:, neighbors[~unknown]].T
        matrix.setdiag(diagonal)
        return matrix, known

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """The image ``[C, H, W]`` with new pixels where ``mask`` ``[H, W]`` is 0."""
        flat = img.detach().reshape(len(img), -1)
        weighting = neighbors_weights if is_strict() else self.weighting
        matrix, known = self.setup_sparse_system(mask.numpy(), flat.numpy(), weighting)
        solve = require("scipy.sparse.linalg", "compat").spsolve
        found = torch.tensor(solve(require("scipy.sparse", "compat").csc_matrix(matrix), known), dtype=torch.float)
        filled = flat.clone()
        columns = found.reshape(known.shape).t()
        filled[:, mask.reshape(-1) == 0] = columns + self.noise * torch.randn_like(columns)
        return filled.reshape_as(img)


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score when the most relevant pixels are filled in."""

    def __init__(self, percentile: float = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score when the least relevant pixels are filled in."""

    def __init__(self, percentile: float = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """Its mean over percentiles."""

    def __init__(self, percentiles: Sequence[float] = _PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """Its mean over percentiles."""

    def __init__(self, percentiles: Sequence[float] = _PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half the difference of the two: larger where the heatmap is better."""

    def __init__(self, percentiles: Sequence[float] = _PERCENTILES) -> None:
        self.percentiles = percentiles
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(
        self, input_tensor: Tensor, cams: np.ndarray, targets: Sequence[Callable[[Any], Any]], model: nn.Module
    ) -> np.ndarray:
        least = self.lerf_averager(input_tensor, cams, targets, model)  # first, as the original draws its noise
        most = self.morf_averager(input_tensor, cams, targets, model)
        return (least - most) / 2
