"""What is asked of a network: layers, targets, methods, forms of input; and what each target means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import camfast

from .blocks import calls_of
from .choices import Choices
from .heads import Scores
from .networks import Network
from .plain import modules_named, run

__all__ = ["Objective", "Question", "questions", "readings_of_classes"]

TARGETS = camfast.targets
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda column: column.mean(),
    "best": lambda column: column.amax(),
    "sum": lambda column: column.sum(),
}
"""What a class of several queries, words or time steps may count by."""


@dataclass(frozen=True)
class Objective:
    """One value an image: ``of`` makes it of the image's scores, in one field of the model's output."""

    scores: Scores
    images: int
    of: Callable[[Tensor, int], Tensor]  # of one image's scores and the image's number

    def rows(self, output: Any) -> list[Tensor]:
        """The scores of each image."""
        field = self.scores.field
        if field is not None:
            known = isinstance(field, int) or isinstance(output, Mapping)
            output = output[field] if known else getattr(output, field)
        if self.scores.order == "1K":
            return [output[0]] * self.images
        return [output[:, i] if self.scores.order == "QNK" else output[i] for i in range(self.images)]

    def each(self, output: Any, softmax: bool = False) -> Tensor:
        """``[images]``."""
        rows = self.rows(output)
        return torch.stack([self.of(row.softmax(0) if softmax else row, i) for i, row in enumerate(rows)])

    def __call__(self, output: Any) -> Tensor:
        return self.each(output).sum()


@dataclass
class Question:
    """One call of camfast. ``readings`` are the meanings that are right, each a list of K objectives; None: by the result."""

    layers: str | None
    method: str
    targets: Any
    form: str
    inputs: Any
    kind: str  # of target, in a word
    readings: list[list[Objective]] | None
    several: bool = False  # K targets an image
    class_names: list[str] | None = None

    def __str__(self) -> str:
        where = "no layer named" if self.layers is None else f"layers={self.layers!r}"
        return f"{self.method}, {where}, targets={self.kind}, images as {self.form}"


def readings_of_classes(network: Network, columns: list[list[int]], scores: Scores | None = None) -> list:
    """What classes mean: ``columns`` are K lists of one class an image."""
    scores = network.outputs[0] if scores is None else scores

    def objective(classes: list[int], reduce: Callable[[Tensor], Tensor]) -> Objective:
        def of(row: Tensor, image: int) -> Tensor:
            if scores.order in ("NQK", "QNK"):
                return reduce(row[:, classes[image]])
            return row[classes[image]] if row.ndim == 1 else row[classes[image]].mean()

        return Objective(scores, network.images, of)

    ways = REDUCTIONS if scores.order in ("NQK", "QNK") else {"": REDUCTIONS["mean"]}
    return [[objective(classes, reduce) for classes in columns] for reduce in ways.values()]


_KINDS = [
    "None", "a class", "None", "a class", "a class", "classes", "a tensor [N]", "TopK", "a tensor [N, K]", "a name",
    "names", "a callable", "all", "Probability", "LogOdds", "Negative", "Contrast", "Value", "Field", "Field", "Field",
    "Field of a callable",
]  # fmt: skip
SIMPLE = ["None", "a class", "classes"]


def _target(choose: Choices, key: str, network: Network, kinds: list[str]) -> tuple[str, Any, Any, bool]:
    """``(kind, targets, readings, several)``."""
    kind = choose(f"{key}targets", kinds)
    scores, n = network.outputs[0], network.images
    many = scores.order in ("NQK", "QNK")
    if kind.startswith("Field"):
        scores = network.outputs[choose(f"{key}field", range(len(network.outputs)))]
        many = scores.order in ("NQK", "QNK")
        if scores.field is None:
            kind = "a class"
    c = choose(f"{key}class", range(scores.classes))
    of_row = (lambda row: row[:, c].amax()) if many else (lambda row: row[c] if row.ndim == 1 else row[c].mean())
    own = [[Objective(scores, n, lambda row, image: of_row(row))]]
    if kind == "Field of a callable":
        return kind, TARGETS.Field(scores.field, of_row), own, False
    if kind == "Field":
        return kind, TARGETS.Field(scores.field, c), readings_of_classes(network, [[c] * n], scores), False
    if scores.field == "scores" and scores.order == "NK" and kind != "None" and network.outputs[0].field == "scores":
        return "Field", TARGETS.Field("scores", c), own, False  # an object of the model's own class
    if kind == "a callable":
        return kind, of_row, own, False
    several = [(c + i) % scores.classes for i in range(n)]
    if kind == "None":
        return kind, None, None, False
    if kind == "classes":
        return kind, several, readings_of_classes(network, [several]), False
    if kind == "a tensor [N]":
        return kind, torch.tensor(several), readings_of_classes(network, [several]), False
    if kind == "a tensor [N, K]":
        other = [(k + 1) % scores.classes for k in several]
        readings = readings_of_classes(network, [several, other])
        return kind, torch.tensor([several, other]).t().contiguous(), readings, True
    if kind == "names" and network.names:
        return kind, [network.names[k] for k in several], readings_of_classes(network, [several]), False
    if kind == "a name" and network.names:
        return kind, network.names[c], readings_of_classes(network, [[c] * n]), False
    if kind == "all" and not many:
        return kind, "all", readings_of_classes(network, [[k] * n for k in range(scores.classes)]), True
    if kind == "TopK" and scores.order in ("NK", "1K") and scores.classes > 1:
        rows = own[0][0].rows(run(network))
        best = torch.stack([row.topk(2).indices for row in rows]).t().tolist()
        return kind, camfast.TopK(2), readings_of_classes(network, best), True
    if scores.order in ("NK", "1K") and scores.classes > 1:
        found = _of_targets(kind, c, scores.classes)
        if found is not None:
            return kind, found[0], [[Objective(scores, n, lambda row, image: found[1](row))]], False
    return "a class", c, readings_of_classes(network, [[c] * n]), False


def _of_targets(kind: str, c: int, classes: int) -> tuple[Any, Callable[[Tensor], Tensor]] | None:
    """One of :mod:`camfast.targets` and its meaning, written out."""
    other = (c + 1) % classes
    rest = [k for k in range(classes) if k != c]
    if kind == "Probability":
        return TARGETS.Probability(c), lambda row: row.softmax(0)[c]
    if kind == "LogOdds":
        return TARGETS.LogOdds(c), lambda row: row[c] - row[rest].logsumexp(0)
    if kind == "Negative":
        return TARGETS.Negative(c), lambda row: -row[c]
    if kind == "Value":
        return TARGETS.Value(c), lambda row: row[c]
    if kind == "Contrast":
        return TARGETS.Contrast(c, [other]), lambda row: _contrast(row, c, other)
    return None


def _contrast(row: Tensor, c: int, other: int) -> Tensor:
    p = row.softmax(0)[other]
    return p * (row[c] - row[other]) / (p + 1e-9)


def _form(choose: Choices, key: str, network: Network) -> tuple[str, Any]:
    values = list(network.inputs.values())
    if network.call == "one dict":
        form = choose(f"{key}images", ["a dict", "a tuple of a dict"])
        return form, network.inputs if form == "a dict" else (network.inputs,)
    if network.call == "one list":
        form = choose(f"{key}images", ["a list", "a tuple of a list"])
        return form, values[0] if form == "a list" else (values[0],)
    named = ["a dict"] if network.by_name else []
    form = choose(f"{key}images", ["arguments", "arguments", "arguments", "a tuple", *named])
    if form == "a dict":
        return form, dict(network.inputs)
    return form, values[0] if len(values) == 1 and form == "arguments" else tuple(values)


def layers_with_maps(network: Network) -> list[str]:
    """Names of layers that run, and whose maps are known."""
    ran: set[nn.Module] = set()
    handles = [m.register_forward_hook(lambda m, *_: ran.add(m)) for m in network.model.modules()]
    try:
        run(network)
    finally:
        for handle in handles:
            handle.remove()
    return [
        name
        for name, m in network.model.named_modules()
        if m in ran and calls_of(m) and all(call.axes is not None for call in calls_of(m))
    ]


def questions(choose: Choices, network: Network) -> list[Question]:
    """What is asked of ``network``: without a layer's name first."""
    found = []
    names = layers_with_maps(network)
    for i, named in enumerate((False, True, False)):
        key = f"{'abc'[i]}."
        layer = choose(f"{key}layer", names[::-1]) if named and names else None
        methods = ["grad_cam"] if i == 0 else ["grad_cam", "layer_cam", "hires_cam", "eigen_cam"]
        if i and _small(network, layer):
            methods += ["recipro_cam", "ablation_cam", "score_cam"]
        method = choose(f"{key}method", methods)
        kinds = SIMPLE if method in ("recipro_cam", "ablation_cam", "score_cam", "eigen_cam") else _KINDS
        kind, targets, readings, several = _target(choose, key, network, kinds)
        form, inputs = _form(choose, key, network)
        names_known = network.names or None
        found.append(Question(layer, method, targets, form, inputs, kind, readings, several, names_known))
    return found


def _small(network: Network, layer: str | None) -> bool:
    """Whether methods that run the head for every position or channel are over soon, and mean one thing."""
    plain = network.arrangement in ("plain", "meta", "scalar", "prompts", "one head of several") and network.frames == 1
    picture = next(iter(network.pictures.values()))
    first = next(iter(network.inputs.values()))
    floats = isinstance(first, Tensor) and first.is_floating_point() and picture.layout == "NC*"
    if layer is None or not plain or not floats or network.outputs[0].order != "NK":
        return False
    (call, *others) = calls_of(modules_named(network.model, layer))
    return (
        not others
        and call.axes.layout != "windows"
        and len(call.axes.map) == len(picture.size)
        and torch.Size(call.axes.map).numel() <= 40
        and network.outputs[0].classes > 1
    )
