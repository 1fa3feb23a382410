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
    return np.float32([float(target(output)) for target, output in zip(targets, outputs, strict=False)])


class RemoveMostRelevantFirst:
    """Changes the part of an image that is above a percentile of its heatmap.

    ``imputer`` takes the image and a mask ``[H, W]``, 1 where the image stays.
    """

    def __init__(self, percentile: float, imputer: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        if self.percentile != "auto":
            threshold = np.percentile(mask.cpu().numpy(), self.percentile)
        return self.imputer(input_tensor, (mask < threshold).float())


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Changes the part that is below a percentile counted from the top: the least relevant one."""

    def __init__(self, percentile: float, imputer: Callable[[Tensor, Tensor], Tensor]) -> None:
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
        return np.mean(np.float32(found), axis=0)
