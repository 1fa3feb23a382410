"""From features to scores, and what models return beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, make_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import blocks
from .axes import Axes
from .blocks import NoMap, mark
from .choices import Choices
from .trunks import State

__all__ = ["Queries", "Scores", "Seen", "Segmenter", "Steps", "head", "packed"]


@dataclass(frozen=True)
class Scores:
    """A tensor of scores that a model returns.

    ``order``: ``"NK"``, ``"N"`` (one number an image), ``"1K"`` (one row for all frames of the batch), ``"NQK"``
    (queries, words or time steps before the classes), ``"QNK"`` (the same, batch second), ``"NK*"`` (planes).
    """

    field: str | int | None  # a key, an attribute, a position; None: it is all that is returned
    order: str
    classes: int


class Pool(nn.Module):
    """Features to one row an image ``[N, width]``."""

    def __init__(self, kind: str, state: State) -> None:
        super().__init__()
        self.kind, self.layout, self.prefix = kind, state.layout, state.prefix
        self.width = state.channels
        if kind == "flatten":
            self.width *= math.prod(state.map)
        if kind == "adaptive":
            self.pool = nn.Sequential(blocks.ADAPTIVE[state.rank](1), nn.Flatten())
        if kind == "grid":
            self.pool = nn.Sequential(blocks.ADAPTIVE[state.rank](2), nn.Flatten())
            self.width *= 2**state.rank
            mark(self.pool[0], Axes("NC*", (2,) * state.rank, state.along))
        if kind == "attention":
            self.weigh = nn.Linear(state.channels, 1)
            mark(self.weigh, Axes("NTC", state.map, state.along, state.prefix))
        mark(self, NoMap)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind in ("adaptive", "grid"):
            return self.pool(x)
        if self.layout == "NC*":
            x = x.flatten(2).transpose(1, 2)
        elif self.layout == "N*C":
            x = x.flatten(1, -2)
        if self.kind == "class token":
            return x[:, 0]
        if self.kind == "last":
            return x[:, -1]
        if self.kind == "max":
            return x.amax(1)
        if self.kind == "flatten":
            return x[:, self.prefix :].flatten(1)
        if self.kind == "attention":
            return (self.weigh(x).softmax(1) * x).sum(1)
        return (x[:, self.prefix :] if self.kind == "mean of positions" else x).mean(1)


def pool(choose: Choices, key: str, state: State) -> Pool:
    if state.layout == "NC*":
        kinds = ["mean", "adaptive", "mean", "adaptive", "flatten", "max", "attention", "grid"]
    elif state.layout == "N*C":
        kinds = ["mean", "mean", "flatten", "attention"]
    elif state.prefix:
        kinds = ["class token", "class token", "mean", "mean of positions"]
    else:
        kinds = ["mean", "last", "max", "flatten", "attention"]
    return Pool(choose(f"{key}pool", kinds), state)


class Head(nn.Module):
    """Pooling, and one linear layer or two."""

    def __init__(self, pooling: Pool, classes: int, deep: bool) -> None:
        super().__init__()
        self.pool = pooling
        if deep:
            self.fc: nn.Module = nn.Sequential(nn.Linear(pooling.width, 10), nn.ReLU(), nn.Linear(10, classes))
        else:
            self.fc = nn.Linear(pooling.width, classes)
        mark(self, NoMap)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x))


class ConvolutionalHead(nn.Module):
    """A map of each class, averaged."""

    def __init__(self, state: State, classes: int) -> None:
        super().__init__()
        self.classifier = blocks.CONVS[state.rank](state.channels, classes, 1)
        mark(self.classifier, Axes("NC*", state.map, state.along))
        mark(self, NoMap)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x).flatten(2).mean(2)


def head(choose: Choices, key: str, state: State, classes: int) -> nn.Module:
    """A module from features to ``[N, classes]``."""
    if state.layout == "NC*" and choose(f"{key}head", ["pool", "pool", "pool", "pool", "maps"]) == "maps":
        return ConvolutionalHead(state, classes)
    return Head(pool(choose, key, state), classes, choose(f"{key}deep", [False, False, True]))


class Segmenter(nn.Module):
    """Scores for each position of the image, ``[N, classes, *size]``."""

    def __init__(self, state: State, classes: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.classifier = blocks.CONVS[state.rank](state.channels, classes, 1)
        mark(self.classifier, Axes("NC*", state.map, state.along))
        mark(self, Axes("NC*", size, state.along))

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(x)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
        return nn.functional.interpolate(x, self.size, mode=mode)


class Steps(nn.Module):
    """Scores of every time step: ``[N, T, classes]``, or ``[T, N, classes]``."""

    def __init__(self, state: State, classes: int, batch_second: bool) -> None:
        super().__init__()
        self.batch_second = batch_second
        self.prefix = state.prefix
        self.fc = nn.Linear(state.channels, classes)
        mark(self.fc, state.axes())
        mark(self, Axes("TNC" if batch_second else "NTC", state.map, state.along))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)[:, self.prefix :]
        return x.transpose(0, 1) if self.batch_second else x


class Queries(nn.Module):
    """Learned queries look at the features; each gets scores ``[N, queries, classes]`` and a box."""

    def __init__(self, state: State, queries: int, classes: int) -> None:
        super().__init__()
        self.layout = state.layout
        self.queries = nn.Parameter(torch.zeros(1, queries, state.channels))
        self.decoder = nn.MultiheadAttention(state.channels, 1, batch_first=True)
        self.class_embed = nn.Linear(state.channels, classes)
        self.bbox_embed = nn.Linear(state.channels, 4)
        mark(self, NoMap)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.layout == "NC*":
            x = x.flatten(2).transpose(1, 2)
        elif self.layout == "N*C":
            x = x.flatten(1, -2)
        found = self.decoder(self.queries.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0]
        found = found + self.queries
        return self.class_embed(found), self.bbox_embed(found).sigmoid()


Seen = make_dataclass("Seen", [("logits", Tensor), ("features", Tensor)])


class Own:
    """A class of the model's own, which nobody can look into."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores


def packed(how: str, scores: Tensor, features: Tensor) -> Any:
    """What a model of one head returns."""
    if how == "tensor":
        return scores
    if how == "(scores, features)":
        return scores, features
    loss = scores.square().mean()
    if how == "(loss, scores)":
        return loss, scores
    if how == "{loss, logits}":
        return {"loss": loss, "logits": scores}
    if how == "{logits, features}":
        return {"features": features, "logits": scores}
    if how == "{prediction}":
        return {"prediction": scores}
    return Seen(scores, features) if how == "dataclass" else Own(scores)


FIELDS = {
    "tensor": None,
    "(scores, features)": 0,
    "(loss, scores)": 1,
    "{loss, logits}": "logits",
    "{logits, features}": "logits",
    "{prediction}": "prediction",
    "dataclass": "logits",
    "object": "scores",
}
"""How models of one head return their scores, and the field that holds them."""
