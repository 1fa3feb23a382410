"""What to explain: which scalar of a model's output each image's heatmap belongs to.

Classes by number or name, ``TopK``, or a :class:`Target`: any callable that makes a scalar of one image's scores. The
targets here can be given to every method, one for all images, one an image, or K an image as a list of lists::

    camfast.grad_cam(model, images, camfast.targets.Probability(281))
    camfast.grad_cam(detector, images, camfast.targets.Detection(boxes, labels), layers="backbone.body.layer4")
"""

from __future__ import annotations

from .choice import ALL, Chosen, Policy, Targets, TopK, choose, count_per_image, scores_of
from .classes import Binary, Contrast, Logit, LogOdds, Negative, Probability, ReST, Value
from .dense import Segmentation
from .detection import Detection
from .embedding import Similarity
from .target import Field, Target

__all__ = [
    "ALL",
    "Binary",
    "Chosen",
    "Contrast",
    "Detection",
    "Field",
    "LogOdds",
    "Logit",
    "Negative",
    "Policy",
    "Probability",
    "ReST",
    "Segmentation",
    "Similarity",
    "Target",
    "Targets",
    "TopK",
    "Value",
    "choose",
    "count_per_image",
    "scores_of",
]
