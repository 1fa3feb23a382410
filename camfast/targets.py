"""What to explain: which scalar of a model's output each image's heatmap belongs to.

Classes by number or name, ``TopK``, or a :class:`Target`: any callable that makes a scalar of one image's scores. The
targets here can be given to every method, one for all images, one an image, or K an image as a list of lists::

    camfast.grad_cam(model, images, camfast.targets.Probability(281))
    camfast.grad_cam(detector, images, camfast.targets.Detection(boxes, labels), layers="backbone.body.layer4")
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import closest
from .model.outputs import scores_in

__all__ = [
    "ALL",
    "Binary",
    "Contrast",
    "Detection",
    "Field",
    "LogOdds",
    "Logit",
    "Negative",
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
    "value_of",
]


ALL = "all"
"""As a target: every class, in the order of the scores."""


Scalar = Callable[[Any], Tensor]
"""Scores of one image -> the scalar to explain."""


@dataclass(frozen=True)
class TopK:
    """Each image's ``k`` classes of highest score, the highest first."""

    k: int

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopK expects a positive int, got {self.k!r}")


class Policy:
    """Chooses the classes from the scores of every pass; a subclass may remember what it chose before."""

    def pick(self, scores: Tensor) -> Tensor:
        """Class numbers, int64 ``[N]`` or ``[N, K]``, of scores ``[N, classes]``, on their device."""
        raise NotImplementedError


Targets = int | str | TopK | Policy | Tensor | Scalar | Sequence[Any] | None
"""None, a class, a class name, a callable; one of these an image, or K an image; a tensor ``[N]``, ``[N, K]``; ``TopK``; "all"."""


class Target:
    """Base of the targets here; any callable of the same form serves as well.

    ``whole_output`` says what a target is called with: False, the image's scores ``[classes, ...]``; True, the image's
    part of whatever the model returned, such as a detector's dict of boxes, labels and scores.
    """

    whole_output: ClassVar[bool] = False

    def __call__(self, scores: Any) -> Tensor:
        """The scalar to explain, a differentiable function of ``scores``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Field(Target):
    """Another target, of one field of the model's output: a key, an attribute or a position.

    ``Field("image_embeds", Similarity(text))`` explains what in an image is near a text; ``Field(1, 5)`` is class 5 of
    the second tensor that the model returns.
    """

    name: str | int
    target: Target | Callable[[Tensor], Tensor] | int
    whole_output: ClassVar[bool] = True

    def __call__(self, output: Any) -> Tensor:
        if isinstance(output, Mapping) and self.name in output:
            part = output[self.name]
        elif isinstance(self.name, str):
            part = getattr(output, self.name, None)
        else:
            part = output[self.name] if isinstance(output, (tuple, list)) and self.name < len(output) else None
        if part is None:
            known = f"one with {', '.join(map(str, output))}" if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"expected an output with the field {self.name!r}, got {known}")
        return value_of(self.target, part)


def value_of(target: Any, output: Any) -> Tensor:
    """What ``target``, a class or a callable, makes of one image's ``output``: its scores, or all there is.

    Users' own callables get all that a detector said of the image, since that is what they are written for.
    """
    detected = isinstance(output, Mapping) and {"boxes", "scores"} <= set(output)
    if getattr(target, "whole_output", detected and callable(target) and not isinstance(target, Target)):
        return target(output)
    scores = output if isinstance(output, Tensor) else output["scores"] if detected else scores_in(output)
    if scores is None:
        raise TypeError(f"{target!r} needs scores, got {type(output).__name__} without float tensors")
    return target(scores) if callable(target) else class_score(scores, target)


def class_score(scores: Tensor, category: int) -> Tensor:
    """The score of one class, of one image's scores ``[classes]``; of a plane ``[classes, *size]`` its mean."""
    if scores.ndim == 0:
        return scores
    if not 0 <= category < len(scores):
        raise ValueError(f"expected a class from 0 to {len(scores) - 1}, got {category}")
    return scores[category] if scores.ndim == 1 else scores[category].mean()


@dataclass(frozen=True)
class Logit(Target):
    """A class's score as the model gives it: the same as the class's number."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(scores, self.category)


@dataclass(frozen=True)
class Probability(Target):
    """A class's softmax probability, which also falls when other classes rise. Its gradient fades as it nears 1."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        return class_score(_classes(scores).softmax(0), self.category)


@dataclass(frozen=True)
class LogOdds(Target):
    """Log-odds of a class, ``log(p / (1 - p))``: its score less the log of the summed exponentials of the others."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        own = class_score(scores, self.category)
        others = scores[[i for i in range(len(scores)) if i != self.category]]
        if len(others) == 0:
            raise ValueError("LogOdds needs at least two classes, got one; use Binary")
        return own - others.logsumexp(0)


@dataclass(frozen=True)
class ReST(Target):
    """A class's score plus its log-probability (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    category: int

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        return class_score(scores, self.category) + class_score(scores.log_softmax(0), self.category)


@dataclass(frozen=True)
class Binary(Target):
    """The one score of a binary classifier: what speaks for the positive class, or against it.

    ``index`` chooses among several such scores (multi-label).
    """

    positive: bool = True
    index: int = 0

    def __call__(self, scores: Tensor) -> Tensor:
        value = class_score(scores, self.index)
        return value if self.positive else -value


@dataclass(frozen=True)
class Value(Target):
    """One number of a regression, or of any output: its element ``index`` in row-major order."""

    index: int = 0

    def __call__(self, scores: Tensor) -> Tensor:
        if not 0 <= self.index < scores.numel():
            raise ValueError(f"expected an index from 0 to {scores.numel() - 1}, got {self.index}")
        return scores.reshape(-1)[self.index]


@dataclass(frozen=True)
class Negative(Target):
    """Another target with its sign turned: the counterfactual, what in the image speaks against a class.

    ``target`` is a class or any target (Selvaraju 2017, section 7).
    """

    target: Target | Callable[[Any], Tensor] | int

    @property
    def whole_output(self) -> bool:  # type: ignore[override]
        return getattr(self.target, "whole_output", False)

    def __call__(self, scores: Any) -> Tensor:
        return -value_of(self.target, scores)


@dataclass(frozen=True)
class Contrast(Target):
    """A class against others: ``sum_k p_k (y_n - alpha * y_k) / (sum_k p_k + 1e-9)`` (Zhang 2025, https://arxiv.org/abs/2501.11309).

    ``others`` are the classes k, ``p`` the softmax probabilities. ``FinerCAM`` chooses the others by itself.
    """

    category: int
    others: Sequence[int]
    alpha: float = 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        scores = _classes(scores)
        if not self.others:
            raise ValueError("Contrast needs at least one class to compare with, got none")
        own, probabilities = class_score(scores, self.category), scores.softmax(0)
        shares = [class_score(probabilities, other) for other in self.others]
        differences = [own - self.alpha * class_score(scores, other) for other in self.others]
        total = sum(share * difference for share, difference in zip(shares, differences, strict=True))
        return total / (sum(shares) + 1e-9)  # type: ignore[return-value]


def _classes(scores: Tensor) -> Tensor:
    """``[classes]``, in fp32 at least: exponentials overflow in half precision."""
    scores = scores if scores.ndim < 2 else scores.flatten(1).mean(1)
    return scores.float() if scores.element_size() < 4 else scores


@dataclass(frozen=True, eq=False)
class Segmentation(Target):
    """A class's scores, summed over a region: ``scores[category][mask].sum()``, for scores ``[classes, *size]``.

    ``mask`` is bool or a weight, an array or tensor ``[*size]``; None takes the region where the class has the highest
    score of all. A mask of another resolution, such as that of the image, is brought to that of the scores by its
    nearest values.
    """

    category: int
    mask: Any = None

    def __call__(self, scores: Tensor) -> Tensor:
        if scores.ndim < 2:
            raise ValueError(f"Segmentation needs scores [classes, *size] of an image, got {list(scores.shape)}")
        if not 0 <= self.category < len(scores):
            raise ValueError(f"expected a class from 0 to {len(scores) - 1}, got {self.category}")
        plane = scores[self.category]
        if self.mask is None:
            weights = (scores.detach().argmax(0) == self.category).to(plane)
        else:
            weights = torch.as_tensor(self.mask).to(plane)
        if weights.ndim != plane.ndim:
            raise ValueError(
                f"mask must have the {plane.ndim} dimensions of the scores' {list(plane.shape)}, got {list(weights.shape)}"
            )
        if weights.shape != plane.shape:
            weights = F.interpolate(weights[None, None], size=tuple(plane.shape), mode="nearest")[0, 0]
        return (plane * weights).sum()


@dataclass(frozen=True, eq=False)
class Detection(Target):
    """Boxes that a detector found: for each, its overlap with the best box of this pass plus that box's score.

    A box counts where the overlap (intersection over union) is more than ``iou_threshold`` and the label is the same;
    otherwise it adds 0. The detector returns for each image a mapping with ``boxes`` ``[D, 4]`` (x0, y0, x1, y1),
    ``labels`` ``[D]`` and ``scores`` ``[D]``, as torchvision's do.

    Args:
        boxes: ``[M, 4]`` in the pixels of the image. labels: ``[M]``, or one for all boxes; None: any label.

    Equal to pytorch-grad-cam's ``FasterRCNNBoxScoreTarget``.
    """

    boxes: Any
    labels: Any = None
    iou_threshold: float = 0.5
    whole_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        boxes = torch.as_tensor(self.boxes, dtype=torch.float32)
        if boxes.ndim == 1 and len(boxes) == 4:
            boxes = boxes[None]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must have shape [M, 4], x0, y0, x1, y1, got {list(boxes.shape)}")
        object.__setattr__(self, "boxes", boxes)
        if self.labels is None:
            return
        labels = torch.as_tensor(self.labels).reshape(-1)
        if len(labels) == 1:
            labels = labels.expand(len(boxes))
        if len(labels) != len(boxes):
            raise ValueError(f"labels must be one for each of {len(boxes)} boxes, got {len(labels)}")
        object.__setattr__(self, "labels", labels)

    def __call__(self, output: Any) -> Tensor:
        if not isinstance(output, Mapping) or not {"boxes", "labels", "scores"} <= set(output):
            got = (
                f"a mapping with {', '.join(map(str, output))}"
                if isinstance(output, Mapping)
                else type(output).__name__
            )
            raise TypeError(f"Detection needs a detector's boxes, labels and scores of each image, got {got}")
        found, scores = output["boxes"], output["scores"]
        total = found.sum() * 0 + scores.sum() * 0  # zero, and part of the graph
        if len(found) == 0:
            return total
        overlaps = _iou(self.boxes.to(found), found)  # [M, D]
        best, places = overlaps.max(1)
        counted = best > self.iou_threshold
        if self.labels is not None:
            counted = counted & (output["labels"][places] == self.labels.to(places.device))
        return total + (torch.where(counted, best + scores[places], 0)).sum()


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union ``[M, D]`` of boxes ``[M, 4]`` and ``[D, 4]``."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """Cosine similarity of the image's embedding ``[D]`` to ``reference`` ``[D]``: another image's, or a text's (CLIP).

    An embedding with more dimensions is flattened. With ``Field`` it applies to one field of the output:
    ``Field("image_embeds", Similarity(text))``.
    """

    reference: Any

    def __call__(self, scores: Tensor) -> Tensor:
        embedding = scores.reshape(-1)
        reference = torch.as_tensor(self.reference).detach().to(embedding).reshape(-1)
        if reference.shape != embedding.shape:
            raise ValueError(f"reference must be an embedding of {len(embedding)} numbers, got {len(reference)}")
        return F.cosine_similarity(embedding, reference, dim=0)


def find_class(target: str, class_names: Sequence[str] | None) -> int:
    """The number of the class that ``target`` names: a number, a name, or one of a name's synonyms, in any case.

    Raises ``ValueError`` where no class has the name (it gives the closest ones) or several have.
    """
    if target.isascii() and target.isdecimal():
        number = int(target)
        if class_names is not None and number >= len(class_names):
            raise ValueError(f"expected a class below {len(class_names)}, got {number}")
        return number
    if class_names is None:
        raise ValueError(f"expected the number of a class, since no class names are known, got {target!r}")
    wanted = target.strip().casefold()
    whole = [number for number, name in enumerate(class_names) if name.casefold() == wanted]
    parts = [number for number, name in enumerate(class_names) if wanted in _synonyms(name)]
    matches = whole or parts
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = ", ".join(f"{number} ({class_names[number]})" for number in matches)
        raise ValueError(f"expected one class, got {target!r}, the name of several: give a number, {choices}")
    known = {synonym for name in class_names for synonym in _synonyms(name)}
    near = sorted(name for name in known if wanted in name.split())[:6]
    near = near or difflib.get_close_matches(wanted, known, 3, 0.7)
    raise ValueError(f"expected the name of a class, got {target!r}{closest(near)}")


def _synonyms(name: str) -> set[str]:
    """``name`` itself and its parts between commas: ImageNet's names are lists of synonyms."""
    whole = name.casefold()
    return {whole, *(part.strip() for part in whole.split(","))}
