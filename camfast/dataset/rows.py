"""One pass over a batch of pictures: predictions and maps, as rows."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import DoubtWarning
from ..methods import METHODS
from ..methods.explainer import Explainer, Layers
from ..targets import Policy, TopK
from ..version import __version__
from .decode import Batch, Fact, Prepare
from .labels import Truth

__all__ = ["Job", "Rows", "Step", "Wanted", "inputs_of", "predictions"]

TOP = 5  # classes that each row lists

Wanted = Literal["prediction and label", "prediction"] | TopK | list[int]
Rows = list[dict[str, Any]]


@dataclass(repr=False)
class Job(Brief):
    """What is done with every picture, wherever it is done: it can be sent to other processes and machines."""

    model: nn.Module
    method: str
    layers: Layers
    options: dict[str, Any]
    targets: Wanted
    prepare: Prepare
    truth: Truth
    class_names: Sequence[str] | None

    def step(self) -> Step:
        """The step itself, on the device on which the model is."""
        return Step(self)


@dataclass
class _Chosen(Policy):
    """The targets of each image of a call, from its scores and from the labels that were set for it."""

    wanted: Wanted
    labels: list[int | None] = field(default_factory=list)

    def pick(self, scores: Tensor) -> Tensor:
        """Classes ``[N, K]``; the search for a layer asks for the first image alone."""
        if isinstance(self.wanted, TopK):
            return scores.topk(min(self.wanted.k, scores.shape[1]), 1).indices
        if isinstance(self.wanted, list):
            wrong = [number for number in self.wanted if not 0 <= number < scores.shape[1]]
            if wrong:
                raise ValueError(f"targets must be classes from 0 to {scores.shape[1] - 1}, got {wrong[0]}")
            return torch.tensor(self.wanted, device=scores.device).expand(len(scores), -1)
        best = scores.argmax(1, keepdim=True)
        if self.wanted == "prediction":
            return best
        known = [label if label is not None and label < scores.shape[1] else -1 for label in self.labels]
        known = (known + [-1] * len(scores))[: len(scores)]
        label = torch.tensor(known, device=scores.device)[:, None]
        label = torch.where(label < 0, best, label)
        return best if bool((label == best).all()) else torch.cat([best, label], 1)


class Step:
    """The network and its explainer, at work: batches in, rows out."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.explainer: Explainer = METHODS[job.method](job.model, job.layers, **job.options)
        self._targets = _Chosen(job.targets)

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use, known after the first batch."""
        return self.explainer.layers

    def __call__(self, batch: Batch) -> Rows:
        """The rows of a batch, in the order of the pictures' places in the source."""
        rows = [row for images, facts in batch.groups for row in self.rows(images, facts)]
        return sorted(rows, key=lambda row: row["index"])  # stable: an image's targets keep their order

    def rows(self, images: Tensor, facts: Sequence[Fact]) -> Rows:
        """The rows of pictures of one size."""
        truth = [self.job.truth(fact.item) for fact in facts]
        self._targets.labels = [label for label, _ in truth]
        inputs = inputs_of(self.job.model, self.job.prepare, images)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* blank ", DoubtWarning)  # a run counts them
            result = self.explainer(inputs, self._targets, size="map")
        if result.scores.ndim != 2 or result.images_per_row != 1 or result.maps_per_image is not None:
            raise ValueError(f"expected a classifier with scores [N, classes], got {list(result.scores.shape)}")
        maps = result.heatmap
        if maps.ndim != 4:
            raise ValueError(f"expected maps of two dimensions, got maps {list(maps.shape[2:])}")
        assert isinstance(result.targets, Tensor)
        known = predictions(result.scores, result.targets)
        plain = maps.to(torch.float16).cpu().numpy().astype("<f2")
        about = {"layer": ", ".join(result.layers), "method": self.job.method, "version": __version__}
        found: Rows = []
        for n, (fact, (label, label_name)) in enumerate(zip(facts, truth, strict=True)):
            own = self._of_image(fact, label, label_name, known, n) | about
            seen = set()
            for k, target in enumerate(known["targets"][n]):
                if target in seen:  # the label where it is not known, or is the prediction
                    continue
                seen.add(target)
                found.append(own | self._of_target(own, known, n, k, plain[n, k]))
        return found

    def _of_image(self, fact: Fact, label: Any, label_name: Any, known: dict[str, Any], n: int) -> dict[str, Any]:
        classes = known["top"][n]
        if label is not None and label >= known["classes"]:
            warnings.warn(
                f"{fact.item.path} has the label {label}, but the network has {known['classes']} classes: it is not "
                "explained for it",
                DoubtWarning,
                stacklevel=2,
            )
        return {
            "path": fact.item.path,
            "index": fact.item.index,
            "label": label,
            "label_name": label_name,
            "prediction": classes[0],
            "prediction_name": self._name(classes[0]),
            "probability": known["top_scores"][n][0],
            "top_classes": classes,
            "top_scores": known["top_scores"][n],
            "height": fact.height,
            "width": fact.width,
            "crop": None if fact.crop is None else list(fact.crop),
        }

    def _of_target(
        self, own: dict[str, Any], known: dict[str, Any], n: int, k: int, plane: np.ndarray
    ) -> dict[str, Any]:
        target = known["targets"][n][k]
        role = "prediction" if target == own["prediction"] else "label" if target == own["label"] else "target"
        return {
            "target": target,
            "target_name": self._name(target),
            "target_score": known["raw"][n][k],
            "target_probability": known["probability"][n][k],
            "role": role,
            "map": plane.tobytes(),
            "map_height": plane.shape[0],
            "map_width": plane.shape[1],
        }

    def _name(self, number: int) -> str | None:
        names = self.job.class_names
        return names[number] if names is not None and number < len(names) else None


def inputs_of(model: nn.Module, prepare: Prepare, images: Tensor) -> Tensor:
    """The input of ``model`` for what was prepared of pictures, on its device and of its dtype."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0))
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    return prepare.scaled(images.to(tensor.device)).to(dtype)


def predictions(scores: Tensor, targets: Tensor) -> dict[str, Any]:
    """The best classes of scores ``[N, classes]``, and what there is of targets ``[N, K]``, as lists.

    Probabilities are the softmax of the scores, or the scores themselves where they are probabilities already; of a
    single score its sigmoid.
    """
    own = scores.detach().float()
    if own.shape[1] == 1:
        probability = own.sigmoid()
    else:
        certain = bool((own >= 0).all()) and bool(((own.sum(1) - 1).abs() < 1e-3).all())
        probability = own if certain else own.softmax(1)
    top = probability.topk(min(TOP, own.shape[1]), 1)
    return {
        "classes": own.shape[1],
        "top": top.indices.tolist(),
        "top_scores": top.values.tolist(),
        "targets": targets.tolist(),
        "raw": own.gather(1, targets).tolist(),
        "probability": probability.gather(1, targets).tolist(),
    }
