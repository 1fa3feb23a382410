"""What to explain: which scalar of a model's output each image's heatmap belongs to.

Classes by number or name, ``TopK``, or a :class:`Target`: any callable that makes a scalar of one image's scores. The
targets here can be given to every method, one for all images, one an image, or K an image as a list of lists::

    camfast.grad_cam(model, images, camfast.targets.Probability(281))
    camfast.grad_cam(detector, images, camfast.targets.Detection(boxes, labels), layers="backbone.body.layer4")
"""

from __future__ import annotations

from ..model.class_axis import Over
from .base import ALL, Field, Policy, Scalar, Target, Targets, TopK, class_score, value_of
from .classes import Binary, Class, Contrast, Logit, LogOdds, Negative, Probability, ReST, Value
from .names import ClassNames, find_class, listed_names
from .regions import Detection, Segmentation, Similarity

__all__ = [
    "ALL",
    "Binary",
    "Class",
    "ClassNames",
    "Contrast",
    "Detection",
    "Field",
    "LogOdds",
    "Logit",
    "Negative",
    "Over",
    "Policy",
    "Probability",
    "ReST",
    "Scalar",
    "Segmentation",
    "Similarity",
    "Target",
    "Targets",
    "TopK",
    "Value",
    "class_score",
    "find_class",
    "listed_names",
    "value_of",
]
