"""Whole models: trunks and heads in the arrangements that are met, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import blocks, heads
from .adapters import adapted
from .blocks import NoMap, mark, mark_calls
from .choices import Choices
from .evidence import Place, pictures
from .heads import Scores
from .trunks import State, trunk

__all__ = ["Network", "Picture", "network"]


@dataclass(frozen=True)
class Picture:
    """An image among the inputs: ``layout`` is ``"NC*"``, ``"N*C"`` or ``"NFC*"`` (frames or a bag before the channels)."""

    layout: str
    size: tuple[int, ...]
    places: list[Place]  # one an image, frame by frame


@dataclass
class Network:
    """A model, its inputs, and all that is known of it by construction."""

    model: nn.Module
    inputs: dict[str, Any]  # in the order of forward's arguments
    pictures: dict[str, Picture]
    outputs: list[Scores]
    images: int  # rows of scores: what a target is counted by
    frames: int = 1  # pictures that one row of scores is made of
    arrangement: str = "plain"
    call: str = "arguments"  # or "one dict", "one list"
    names: list[str] = field(default_factory=list)
    state: State | None = None  # of the trunk's features
    by_name: bool = True  # whether the inputs may be given as keyword arguments
    silent: bool = False  # where an image is zero its features are zero

    def run(self, inputs: dict[str, Any] | None = None) -> Any:
        """What the model returns."""
        inputs = self.inputs if inputs is None else inputs
        if self.call == "one dict":
            return self.model(inputs)
        if self.call == "one list":
            return self.model(next(iter(inputs.values())))
        return self.model(*inputs.values())


class Plain(nn.Module):
    """A trunk and a head."""

    def __init__(self, trunk: nn.Module, head: nn.Module, returns: str, channels_last: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.returns, self.channels_last = trunk, head, returns, channels_last
        self.checkpointed = None

    def forward(self, x: Tensor) -> Any:
        if x.dtype == torch.uint8:
            x = x.float() / 255
        if self.channels_last:
            x = x.movedim(-1, 1)
        f = self.backbone(x)
        if self.checkpointed is None:
            return heads.packed(self.returns, self.head(f), f)
        scores = torch.utils.checkpoint.checkpoint(self.head, f, use_reentrant=self.checkpointed)
        return heads.packed(self.returns, scores, f)


class Siamese(nn.Module):
    """One trunk for two images."""

    def __init__(self, trunk: nn.Module, pool: nn.Module, head: nn.Module, how: str) -> None:
        super().__init__()
        self.encoder, self.pool, self.fc, self.how = trunk, pool, head, how

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        p, q = self.pool(self.encoder(a)), self.pool(self.encoder(b))
        return self.fc(torch.cat([p, q], 1) if self.how == "joined" else p - q)


class Modalities(nn.Module):
    """A trunk of its own for each of two images."""

    def __init__(self, trunks: list[nn.Module], pools: list[nn.Module], classes: int) -> None:
        super().__init__()
        self.mri, self.ct = trunks
        self.pool_mri, self.pool_ct = pools
        self.fc = nn.Linear(pools[0].width + pools[1].width, classes)

    def forward(self, mri: Tensor, ct: Tensor) -> Tensor:
        return self.fc(torch.cat([self.pool_mri(self.mri(mri)), self.pool_ct(self.ct(ct))], 1))


class OneDict(Modalities):
    """The same, of one dict."""

    def forward(self, images: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(**images)


class Frames(nn.Module):
    """Frames or patches, folded into the batch and then brought together: ``[N, F, C, *size]`` or ``[F, C, *size]``."""

    def __init__(self, trunk: nn.Module, pool: nn.Module, classes: int, how: str, folded: bool) -> None:
        super().__init__()
        self.features, self.pool, self.how, self.folded = trunk, pool, how, folded
        if how == "attention":
            self.weigh = nn.Linear(pool.width, 1)
        if how == "lstm":
            self.lstm = nn.LSTM(pool.width, pool.width, batch_first=True)
        self.fc = nn.Linear(pool.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:2] if self.folded else (1, x.shape[0])
        rows = self.pool(self.features(x.flatten(0, 1) if self.folded else x)).unflatten(0, lead)
        if self.how == "attention":
            rows = self.weigh(rows).softmax(1) * rows
        if self.how == "lstm":
            return self.fc(self.lstm(rows)[0][:, -1])
        return self.fc(rows.mean(1))


class Beside(nn.Module):
    """An image and something else: numbers of the patient, an angle, its padding, prompts."""

    def __init__(self, trunk: nn.Module, pool: nn.Module, classes: int, kind: str) -> None:
        super().__init__()
        self.backbone, self.pool, self.kind = trunk, pool, kind
        width = pool.width
        if kind == "meta":
            self.meta = nn.Linear(4, 6)
            width += 6
        if kind == "prompts":
            self.project = nn.Linear(width, 6)
        else:
            self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        rows = self.pool(self.backbone(x, other) if self.kind == "padding" else self.backbone(x))
        if self.kind == "meta":
            rows = torch.cat([rows, self.meta(other)], 1)
        if self.kind == "prompts":
            return self.project(rows) @ other.t()
        if self.kind == "scalar":
            rows = rows * other
        return self.fc(rows)


class Several(nn.Module):
    """One trunk and several heads, each with a branch of its own or none."""

    def __init__(self, trunk: nn.Module, branches: dict[str, tuple[nn.Module, nn.Module]], as_dict: bool) -> None:
        super().__init__()
        self.backbone = trunk
        self.names, self.as_dict = list(branches), as_dict
        for name, (branch, head) in branches.items():
            self.add_module(f"{name}_branch", branch)
            self.add_module(f"{name}_head", head)

    def forward(self, x: Tensor) -> Any:
        f = self.backbone(x)
        found = {n: getattr(self, f"{n}_head")(getattr(self, f"{n}_branch")(f)) for n in self.names}
        return found if self.as_dict else tuple(found.values())


class Detector(nn.Module):
    """A trunk and queries."""

    def __init__(self, trunk: nn.Module, queries: heads.Queries, returns: str) -> None:
        super().__init__()
        self.backbone, self.transformer, self.returns = trunk, queries, returns

    def forward(self, x: Tensor) -> Any:
        logits, boxes = self.transformer(self.backbone(x))
        return {"logits": logits, "pred_boxes": boxes} if self.returns == "dict" else logits


class OfList(nn.Module):
    """Takes a list of images of different sizes, as detectors do, and resizes them itself."""

    def __init__(self, trunk: nn.Module, head: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone, self.head, self.size = trunk, head, size

    def forward(self, images: list[Tensor]) -> Tensor:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[images[0].ndim - 1]
        batch = torch.cat([nn.functional.interpolate(image[None], self.size, mode=mode) for image in images])
        return self.head(self.backbone(batch))


SIZES = {
    1: [(32,), (40,), (45,), (64,)],
    2: [(16, 16), (16, 20), (20, 12), (17, 23), (24, 24), (12, 32)],
    3: [(8, 8, 8), (6, 8, 10), (9, 8, 7)],
}
MIDDLES = ["none", "none", "rnn", "columns", "tokens", "tokens", "last", "windows", "reused"]
ARRANGEMENTS = [
    "plain", "plain", "plain", "plain", "plain", "plain", "one head of several", "branches", "segmentation and class",
    "segmentation", "queries", "steps", "siamese", "modalities", "frames", "clip", "meta", "scalar", "prompts", "list", "padding",
]  # fmt: skip


def network(choose: Choices) -> Network:
    """A random network, with its inputs."""
    rank = choose("rank", [2, 2, 2, 1, 3])
    size = choose("size", SIZES[rank])
    channels = choose("channels", [3, 1, 2, 4])
    arrangement = choose("arrangement", ARRANGEMENTS)
    batch = choose("batch", [2, 1, 3])
    classes = choose("classes", [4, 2, 3, 7])
    seed = choose("weights", range(1000))
    middles = ["none", "reused"] if rank == 3 and arrangement == "frames" else MIDDLES
    net, state = trunk(choose, "", rank, channels, size, middles)
    if arrangement == "steps" and state.layout != "NTC":
        arrangement = "plain"
    if arrangement in ("segmentation", "segmentation and class", "branches") and state.layout != "NC*":
        arrangement = "one head of several"
    if arrangement == "padding" and (not hasattr(net, "encoder") or ">batch second" in net.steps):
        arrangement = "meta"
    build = _BUILD.get(arrangement, _beside)
    made = build(choose, Parts(net, state, rank, size, channels, batch, classes, arrangement, seed))
    made.state, made.arrangement = state, arrangement
    made.names = [f"kind {i}" for i in range(made.outputs[0].classes)] if choose("names", [False, False, True]) else []
    made.silent = all(place.alone for picture in made.pictures.values() for place in picture.places)
    blocks.seeded(made.model, seed, biases=not made.silent)
    made.by_name = not isinstance(made.model, nn.Sequential)
    made.model = blocks.mark_rest(adapted(choose, made.model))
    return made


@dataclass
class Parts:
    """What the arrangements are made of."""

    trunk: nn.Module
    state: State
    rank: int
    size: tuple[int, ...]
    channels: int
    batch: int
    classes: int
    arrangement: str
    seed: int

    def pictures(self, choose: Choices, key: str, count: int) -> tuple[Tensor, Picture]:
        rng = torch.Generator().manual_seed(self.seed + len(key))
        x, places = pictures(choose, key, count, self.channels, self.size, rng)
        return x, Picture("NC*", self.size, places)


def _plain(choose: Choices, parts: Parts) -> Network:
    returns = choose("returns", ["tensor"] * 6 + list(heads.FIELDS)[1:])
    classes = choose("one score", [parts.classes] * 7 + [1])
    last = choose("images are", ["NC*"] * 8 + ["N*C"]) == "N*C"
    x, picture = parts.pictures(choose, "", parts.batch)
    model: nn.Module = Plain(parts.trunk, heads.head(choose, "", parts.state, classes), returns, last)
    if last:
        x, picture = x.movedim(1, -1).contiguous(), Picture("N*C", picture.size, picture.places)
    elif choose("images in", ["float"] * 9 + ["uint8"]) == "uint8":
        x = (x.clamp(0, 4) * 60).to(torch.uint8)
    model.checkpointed = choose("checkpoint", [None] * 10 + [False, True])
    ending = choose("ending", ["scores"] * 9 + ["softmax", "saturated softmax"])
    if ending != "scores" and returns == "tensor":
        model = mark(nn.Sequential(model, Softmax(4000 if "saturated" in ending else 1)), NoMap)
    return Network(model, {"x": x}, {"x": picture}, [Scores(heads.FIELDS[returns], "NK", classes)], parts.batch)


class Softmax(nn.Module):
    """Probabilities of scores times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, scores: Tensor) -> Tensor:
        return (scores * self.factor).softmax(-1)


def _siamese(choose: Choices, parts: Parts) -> Network:
    how = choose("siamese", ["joined", "difference"])
    pool = heads.pool(choose, "", parts.state)
    inputs, shown = {}, {}
    for name in "ab":
        inputs[name], shown[name] = parts.pictures(choose, name, parts.batch)
    for shared in (parts.trunk, pool):
        mark_calls(shared, "ab")
    model = Siamese(parts.trunk, pool, nn.Linear(pool.width * (1 + (how == "joined")), parts.classes), how)
    return Network(model, inputs, shown, [Scores(None, "NK", parts.classes)], parts.batch)


def _modalities(choose: Choices, parts: Parts) -> Network:
    one_dict = choose("takes", ["arguments", "one dict"]) == "one dict"
    other, state = trunk(choose, "second.", parts.rank, parts.channels, parts.size, ["none"])
    pools = [heads.pool(choose, "", parts.state), heads.pool(choose, "second.", state)]
    inputs, shown = {}, {}
    for name, net, pool in (("mri", parts.trunk, pools[0]), ("ct", other, pools[1])):
        inputs[name], shown[name] = parts.pictures(choose, name, parts.batch)
        for own in (net, pool):
            mark_calls(own, [name])
    model = (OneDict if one_dict else Modalities)([parts.trunk, other], pools, parts.classes)
    found = Network(model, inputs, shown, [Scores(None, "NK", parts.classes)], parts.batch)
    found.call = "one dict" if one_dict else "arguments"
    return found


def _frames(choose: Choices, parts: Parts) -> Network:
    folded = parts.arrangement == "frames"
    how = choose("frames by", ["mean", "attention", "lstm"])
    count = choose("frames", [4, 3, 5, 2])
    pool = heads.pool(choose, "", parts.state)
    batch = parts.batch if folded else 1
    x, picture = parts.pictures(choose, "", batch * count)
    if folded:
        x, picture = x.unflatten(0, (batch, count)), Picture("NFC*", picture.size, picture.places)
    model = Frames(parts.trunk, pool, parts.classes, how, folded)
    scores = Scores(None, "NK" if folded else "1K", parts.classes)
    return Network(model, {"x": x}, {"x": picture}, [scores], batch, count)


def _beside(choose: Choices, parts: Parts) -> Network:
    kind = parts.arrangement
    x, picture = parts.pictures(choose, "", parts.batch)
    rng = torch.Generator().manual_seed(parts.seed)
    classes = choose("as many prompts as images", [True, False]) if kind == "prompts" else False
    classes = parts.batch if classes is True and parts.batch > 1 else parts.classes
    padding = torch.zeros(parts.batch, *parts.size, dtype=torch.bool)
    padding[..., parts.size[-1] * 3 // 4 :] = True
    other = {
        "padding": padding,
        "meta": torch.randn(parts.batch, 4, generator=rng),
        "scalar": torch.tensor(1.5),
        "prompts": torch.randn(classes, 6, generator=rng),
    }[kind]
    model = Beside(parts.trunk, heads.pool(choose, "", parts.state), classes, kind)
    return Network(model, {"x": x, "other": other}, {"x": picture}, [Scores(None, "NK", classes)], parts.batch)


def _several(choose: Choices, parts: Parts) -> Network:
    as_dict = choose("returns", ["dict", "tuple"]) == "dict"
    state, kind = parts.state, parts.arrangement
    x, picture = parts.pictures(choose, "", parts.batch)
    branches: dict[str, tuple[nn.Module, nn.Module]] = {}
    outputs = []
    names = ["age", "sex", "site"][: choose("heads", [2, 3])]
    if kind == "segmentation and class":
        names = choose("order", [["seg", "cls"], ["cls", "seg"]])
    if kind == "segmentation":
        names = ["out"]
    for i, name in enumerate(names):
        branch, own, classes = nn.Identity(), state, parts.classes if i == 0 else choose(f"{name}.classes", [3, 1, 5])
        mark(branch, state.axes())
        dense = name in ("seg", "out")
        if kind == "branches" or (dense and choose(f"{name}.decoder", [True, False])):
            act = nn.ReLU()
            blocks.again(act, state.axes())
            branch = mark(nn.Sequential(blocks.conv(parts.rank, state.channels, state.channels, 3), act), state.axes())
        made = heads.Segmenter(own, classes, parts.size) if dense else heads.head(choose, f"{name}.", own, classes)
        branches[name] = (branch, made)
        outputs.append(Scores(name if as_dict else i, "NK*" if dense else "NK", classes))
    return Network(Several(parts.trunk, branches, as_dict), {"x": x}, {"x": picture}, outputs, parts.batch)


def _queries(choose: Choices, parts: Parts) -> Network:
    x, picture = parts.pictures(choose, "", parts.batch)
    queries = heads.Queries(parts.state, choose("queries", [7, 3, 5]), parts.classes)
    returns = choose("returns", ["dict", "tensor"])
    scores = Scores("logits" if returns == "dict" else None, "NQK", parts.classes)
    return Network(Detector(parts.trunk, queries, returns), {"x": x}, {"x": picture}, [scores], parts.batch)


def _steps(choose: Choices, parts: Parts) -> Network:
    x, picture = parts.pictures(choose, "", parts.batch)
    second = choose("steps", ["batch first", "batch first", "batch second"]) == "batch second"
    model = Plain(parts.trunk, heads.Steps(parts.state, parts.classes, second), "tensor")
    scores = Scores(None, "QNK" if second else "NQK", parts.classes)
    return Network(model, {"x": x}, {"x": picture}, [scores], parts.batch)


def _list(choose: Choices, parts: Parts) -> Network:
    x, picture = parts.pictures(choose, "", parts.batch)
    images = list(x)
    if len(images) > 1 and choose("list", ["of different sizes", "of one size"]) == "of different sizes":
        images[1] = images[1][..., : parts.size[-1] * 3 // 4].contiguous()
    model = OfList(parts.trunk, heads.head(choose, "", parts.state, parts.classes), parts.size)
    found = Network(model, {"images": images}, {"images": picture}, [], parts.batch, call="one list")
    found.outputs = [Scores(None, "NK", parts.classes)]
    mark_calls(model, ["images"])
    return found


_BUILD: dict[str, Callable[[Choices, Parts], Network]] = {
    "plain": _plain, "siamese": _siamese, "modalities": _modalities, "frames": _frames, "clip": _frames,
    "one head of several": _several, "branches": _several, "segmentation": _several, "list": _list,
    "segmentation and class": _several, "queries": _queries, "steps": _steps,
}  # fmt: skip
