"""How a score changes when an image is changed where a heatmap says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "AveragerAcrossThresholds",
    "PerturbationConfidenceMetric",
    "RemoveLeastRelevantFirst",
    "RemoveMostRelevantFirst",
]

_PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The score of changed images, less that of the images. ``perturbation`` takes an image and its heatmap."""

    def __init__(self, perturbation: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: np.ndarray,
        targets: Sequence[Callable[[Any], Any]],
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """Of images ``[N, C, H, W]`` and heatmaps ``[N, H, W]``: float32 ``[N]``.

        ``return_diff=False`` gives the score of the changed images itself; ``return_visualization`` these as well.
        """
        if return_diff:
            with torch.no_grad():
                before = _scores(model, input_tensor, targets)
        heats = torch.from_numpy(np.asarray(cams))
        pairs = zip(input_tensor.cpu(), heats, strict=False)
        changed = torch.stack([self.perturbation(image, heat) for image, heat in pairs]).to(input_tensor.device)
        with torch.no_grad():
            scores = _scores(model, changed, targets)
        result = scores - before if return_diff else scores
        return (result, changed) if return_visualization else result


def _scores(model: nn.Module, images: Tensor, targets: Sequence[Callable[[Any], Any]]) -> np.ndarray:
    outputs = model(images)
    return np.array([float(target(output)) for target, output in zip(targets, outputs, strict=False)], np.float32)


class RemoveMostRelevantFirst:
    """Changes the part of an image that is above a percentile of its heatmap.

    ``imputer`` takes the image and a mask ``[H, W]``, 0 where the image is changed. The percentile ``"auto"`` takes
    Otsu's threshold, and there what lies below it is changed, as in the original.
    """

    def __init__(self, percentile: float | str, imputer: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        heat = mask.cpu().numpy()
        if isinstance(self.percentile, str):
            levels = np.uint8(heat * 255)
            kept = torch.from_numpy(np.where(levels > _otsu(levels), 255, 0).astype(np.uint8))
        else:
            kept = torch.from_numpy(heat < np.percentile(heat, self.percentile)).float()
        return self.imputer(input_tensor, kept.to(mask.device))


def _otsu(levels: np.ndarray) -> int:
    """The grey level, 0 to 255, that parts ``levels`` into two groups of largest variance between them (Otsu 1979)."""
    share = np.bincount(levels.ravel(), minlength=256) / levels.size
    below, sums = np.cumsum(share), np.cumsum(share * np.arange(256))
    some = (below > 1e-7) & (below < 1 - 1e-7)
    variance = (sums[-1] * below - sums)[some] ** 2 / (below * (1 - below))[some]
    return int(np.flatnonzero(some)[variance.argmax()]) if some.any() else 0


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Changes the part that is below a percentile counted from the top: the least relevant one."""

    def __init__(self, percentile: float | str, imputer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(percentile, imputer)

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        return super().__call__(input_tensor, 1 - mask)


class AveragerAcrossThresholds:
    """The mean of ``imputer(percentile)``, a metric, over percentiles."""

    def __init__(self, imputer: Callable[[Any], Any], percentiles: Sequence[float] = _PERCENTILES) -> None:
        self.imputer = imputer
        self.percentiles = percentiles

    def __call__(
        self, input_tensor: Tensor, cams: np.ndarray, targets: Sequence[Callable[[Any], Any]], model: nn.Module
    ) -> Any:
        found = [self.imputer(percentile)(input_tensor, cams, targets, model) for percentile in self.percentiles]
        return np.mean(np.asarray(found, np.float32), axis=0)
