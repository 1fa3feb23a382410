"""What to explain, as callables of one image's output, or of a batch of outputs where that makes sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import require

__all__ = [
    "BinaryClassifierOutputTarget",
    "ClassifierOutputReST",
    "ClassifierOutputSoftmaxTarget",
    "ClassifierOutputTarget",
    "FasterRCNNBoxScoreTarget",
    "FinerWeightedTarget",
    "RawScoresOutputTarget",
    "SemanticSegmentationTarget",
    "SoftmaxOutputTarget",
]


def _of(scores: Tensor, category: Any) -> Tensor:
    return scores[category] if scores.ndim == 1 else scores[:, category]


class ClassifierOutputTarget:
    """The score of a class."""

    def __init__(self, category: Any) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return _of(model_output, self.category)


class ClassifierOutputSoftmaxTarget(ClassifierOutputTarget):
    """The probability of a class."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return _of(model_output.softmax(-1), self.category)


class ClassifierOutputReST(ClassifierOutputTarget):
    """The score of a class plus its log-probability (https://arxiv.org/abs/2501.06261)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return _of(model_output, self.category) + _of(F.log_softmax(model_output, -1), self.category)


class BinaryClassifierOutputTarget:
    """The one score of a binary classifier, negated for category 0."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __init__(self) -> None:
        pass

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """All scores."""

    def __init__(self) -> None:
        pass

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output


class SemanticSegmentationTarget:
    """The sum of a class's scores ``[classes, H, W]`` where ``mask`` ``[H, W]`` says so."""

    def __init__(self, category: int, mask: np.ndarray) -> None:
        self.category = category
        self.mask = torch.from_numpy(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """For each given box: overlap plus score of the detection that overlaps it most, if by enough and of its label."""

    def __init__(self, labels: Sequence[Any], bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        self.labels = labels
        self.bounding_boxes = bounding_boxes
        self.iou_threshold = iou_threshold

    def __call__(self, model_outputs: Mapping[str, Tensor]) -> Tensor:
        boxes = model_outputs["boxes"]
        total = boxes.new_zeros(1)
        if len(boxes) == 0:
            return total
        box_iou = require("torchvision.ops", "vision").box_iou
        for box, label in zip(self.bounding_boxes, self.labels, strict=False):
            overlaps = box_iou(torch.as_tensor(box[None], device=boxes.device, dtype=boxes.dtype), boxes)[0]
            best = overlaps.argmax()
            if overlaps[best] > self.iou_threshold and model_outputs["labels"][best] == label:
                total = total + overlaps[best] + model_outputs["scores"][best]
        return total


class FinerWeightedTarget:
    """How a class stands out from others: differences of scores, weighted by the others' probabilities."""

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category = main_category
        self.comparison_categories = comparison_categories
        self.alpha = alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        own, shares = model_output[..., self.main_category], model_output.softmax(-1)
        others = list(self.comparison_categories)
        shares, scores = shares[..., others], model_output[..., others]
        return (shares * (own.unsqueeze(-1) - self.alpha * scores)).sum(-1) / (shares.sum(-1) + 1e-9)
