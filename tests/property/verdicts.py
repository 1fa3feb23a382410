"""What camfast answered to a question: right, refused, warned; or silently wrong, and in which way."""

from __future__ import annotations

import re
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import camfast

from .axes import Axes
from .networks import Network
from .plain import Tapped, modules_named, normalised, raw_map, rounding, run, tapped
from .questions import Objective, Question, readings_of_classes

__all__ = ["GOOD", "Verdict", "asked"]

GOOD = ("right", "warned", "refused", "refused rightly")
"""All other outcomes are silent wrongs."""

_PACKAGE = str(Path(camfast.__file__).parent)
_TOLERANCES = {"eigen_cam": 5e-3, "ablation_cam": 2e-2, "recipro_cam": 2e-3, "score_cam": 2e-3}


@dataclass
class Verdict:
    """``outcome`` is one of :data:`GOOD`, or the kind of a silent wrong; ``detail`` a sentence; ``layers`` what was explained."""

    outcome: str
    detail: str = ""
    layers: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


class GeneratorError(AssertionError):
    """The network is not what the generator says of it: a mistake of these tests, not of camfast."""


def asked(network: Network, question: Question) -> Verdict:
    """Calls camfast and judges what it gives."""
    usual = _warnings_of(lambda: tapped(network, network.model))[1]
    words: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            options = {} if question.class_names is None else {"class_names": question.class_names}
            explainer = camfast.METHODS[question.method](network.model, layers=question.layers, **options)
            raw = explainer(question.inputs, targets=question.targets, size="map", normalize=False)
            whole = _resized(explainer, question)
    except Exception as error:
        return _refusal(network, question, error)
    finally:
        words = [str(w.message) for w in seen if issubclass(w.category, UserWarning) and str(w.message) not in usual]
    verdict = _judged(network, question, raw, whole, words)
    if not verdict.good and words:
        return Verdict("warned", f"{words[0]} [{verdict.outcome}: {verdict.detail}]", verdict.layers)
    return verdict


def _resized(explainer: Any, question: Question) -> Any:
    """The heatmap at the image's size; at the layer's own where that has fewer dimensions than the image, and says so."""
    try:
        return explainer(question.inputs, targets=question.targets)
    except ValueError as error:
        if "size=" not in str(error):
            raise
        return explainer(question.inputs, targets=question.targets, size="map")


def _warnings_of(call: Any) -> tuple[Any, set[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = call()
    return found, {str(w.message) for w in seen}


def _refusal(network: Network, question: Question, error: Exception) -> Verdict:
    """Whether an exception is one sentence of camfast's own that says what to do."""
    message = str(error)
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    reason = re.sub(r"'[^']*'|\[[^\]]*\]|\d+", "_", message)[:160]
    if not isinstance(error, (ValueError, TypeError)):
        return Verdict(f"crash: {type(error).__name__}", f"{type(error).__name__}: {message[:200]}")
    if not where.startswith(_PACKAGE):
        return Verdict(f"crash: {type(error).__name__} of torch or the model", f"{where}: {message[:200]}")
    if "\n" in message or len(message) > 500 or len(message) < 15:
        return Verdict("refusal that is no sentence", message[:300])
    if question.layers is not None:
        module = modules_named(network.model, question.layers)
        taps, output = tapped(network, module)
        if all(t.call.axes is None for t in taps) or not _reached(question, taps, output):
            return Verdict("refused rightly", reason)
    return Verdict("refused", reason)


def _reached(question: Question, taps: list[Tapped], output: Any) -> bool:
    """Whether the target changes with the layer at all."""
    if question.readings is None or question.method == "eigen_cam":
        return True
    for reading in question.readings:
        found = torch.autograd.grad(
            sum(objective(output) for objective in reading),
            [t.activations for t in taps],
            retain_graph=True,
            allow_unused=True,
        )
        if any(g is not None and g.any() for g in found):
            return True
    return False


def _judged(network: Network, question: Question, raw: Any, whole: Any, words: list[str]) -> Verdict:
    if len(raw.layers) != 1:
        return Verdict("not one layer", str(raw.layers))
    (name,) = raw.layers
    module = modules_named(network.model, name)
    if module is None:
        return Verdict("no such layer", name)
    taps, output = tapped(network, module)
    number = int(name.partition("#")[2]) if name.partition("#")[2].isdigit() else None
    known = [t for t in taps if t.call.axes is not None and number in (None, t.number)]
    kind = f"{name} ({type(module).__name__})"
    if not known:
        shapes = [tuple(t.activations.shape) for t in taps]
        return Verdict("heat of a layer that has no map", f"{kind} gives {shapes}; heatmap {_shape(raw)}", kind)
    readings = question.readings if question.readings is not None else _by_result(network, raw)
    if isinstance(readings, Verdict):
        return readings
    for at in reversed(known):
        for reading in readings:
            columns = [_expected(question, network, module, at, output, o, at.call.axes) for o in reading]
            if any(column is None for column in columns):
                return Verdict("right", "components of nearly equal strength", kind)
            noise = max(rounding(question.method, at, output, o, at.call.axes).max() for o in reading)
            if _fits(raw.heatmap, columns, question, network, noise):
                if question.layers is None and not words and 0 < max(c.abs().max() for c in columns) < noise:
                    return Verdict("rounding drawn as heat", f"values of {columns[0].abs().max():.2g}", kind)
                return _matched(network, question, raw, whole, words, taps, at, columns, kind, noise)
    return _diagnosed(network, question, raw, module, taps, known, output, readings, kind)


def _by_result(network: Network, raw: Any) -> list[list[Objective]] | Verdict:
    """Of ``targets=None``: the class that the result names, which must be the top one where that is clear."""
    scores, ids = network.outputs[0], raw.targets
    if not isinstance(ids, Tensor) or len(ids) not in (network.images, network.images * network.frames):
        return Verdict("no class told", f"result.targets is {ids!r}")
    ids = ids.reshape(-1)[: network.images] if len(ids) == network.images else ids[:: network.frames]
    classes = [int(i) for i in ids.reshape(-1)]
    if max(classes) >= scores.classes:
        return Verdict("another axis taken for the classes", f"class {max(classes)} of {scores.classes}")
    if scores.order in ("NK", "1K", "NK*"):
        found = Objective(scores, network.images, lambda row, i: row).rows(run(network))
        best = [row if row.ndim == 1 else row.flatten(1).mean(1) for row in found]
        if any(row[c] < row.max() - 1e-5 * row.abs().max() for row, c in zip(best, classes, strict=True)):
            return Verdict("not the top class", f"{classes}")
    return readings_of_classes(network, [classes])


def _expected(
    question: Question, network: Network, module: nn.Module, at: Tapped, output: Any, objective: Objective, axes: Axes
) -> Tensor | None:
    """``[M, *map]``; None where the method has no one answer."""
    if question.method == "eigen_cam":
        rows = axes.view(at.activations).detach().flatten(2).transpose(1, 2)
        strengths = torch.linalg.svdvals(rows - rows.mean(1, keepdim=True))
        if min(rows.shape[1:]) > 1 and (strengths[:, 1] > 0.9 * strengths[:, 0]).any():
            return None
    return raw_map(question.method, network, module, at, output, objective, axes).detach().float()


def _fits(
    heat: Tensor, columns: list[Tensor], question: Question, network: Network, noise: Tensor | float = 0.0
) -> bool:
    """Whether ``heat`` holds the expected maps: ``[M, *map]`` each, K of them where K targets were asked for."""
    tolerance = _TOLERANCES.get(question.method, 1e-3)
    heat = heat.detach().float()
    for expected in _forms(columns, question, network):
        if heat.shape != expected.shape:
            continue
        if not heat.isfinite().all():
            return False
        rank = columns[0].ndim - 1
        off, scale = ((t.abs().flatten(-rank).amax(-1)) for t in (heat - expected, expected))
        if question.method == "eigen_cam":
            off = torch.minimum(off, (heat + expected).abs().flatten(-rank).amax(-1))
        floor = 1e-5 * columns[0].abs().max() + 1e-12
        if (off <= tolerance * scale + floor + noise).all():
            return True
    return False


def _forms(columns: list[Tensor], question: Question, network: Network) -> list[Tensor]:
    """The shapes in which maps of several targets and of several frames may come."""
    if not question.several:
        (maps,) = columns
        forms = [maps]
        if network.frames > 1 and len(maps) == network.images * network.frames:  # a misreading may have others
            forms.append(maps.unflatten(0, (network.images, network.frames)))
        if maps.ndim == 2:  # along one axis of a picture
            forms += [maps.unsqueeze(1), maps.unsqueeze(2)]
        return forms
    stacked = torch.stack(columns, 1)
    forms = [stacked]
    if stacked.ndim == 3:
        forms += [stacked.unsqueeze(2), stacked.unsqueeze(3)]
    if network.frames > 1 and len(stacked) == network.images * network.frames:
        unfolded = stacked.unflatten(0, (network.images, network.frames))
        forms += [unfolded, unfolded.transpose(1, 2)]
    return forms


def _matched(
    network: Network, question: Question, raw: Any, whole: Any, words: list[str], taps: list[Tapped], at: Tapped,
    columns: list[Tensor], kind: str, noise: Tensor,
) -> Verdict:  # fmt: skip
    """The raw map is right; now the rest of what the result says."""
    rank = columns[0].ndim - 1
    if len(taps) > 1 and "#" not in raw.layers[0] and not words:
        foreign = {t.call.image for t in taps} != {at.call.image}
        outcome = "map of one of several images, unsaid" if foreign else "one of several calls, unsaid"
        if foreign or question.layers is None or at.number != len(taps):
            return Verdict(outcome, f"call {at.number} of {len(taps)}, of image {at.call.image!r}", kind)
    picture = network.pictures.get(at.call.image) or next(iter(network.pictures.values()))
    _check_place(network, question, at, columns[0], picture.size)
    heat = whole.heatmap.detach().float()
    if not heat.isfinite().all():
        return Verdict("not finite", str(_shape(whole)), kind)
    if not heat.flatten(-rank).any(-1).all() and not words:
        return Verdict("blank", _why_blank(columns), kind)
    drawn = network.inputs.get(at.call.image)
    if len(network.pictures) > 1 and isinstance(raw.images, Tensor) and raw.images is not drawn:
        return Verdict("drawn over another image", f"the layer sees {at.call.image!r}", kind)
    if len(at.call.axes.map) == len(picture.size) and question.method != "eigen_cam":
        together = network.frames if network.frames > 1 else 1
        sized = [normalised(column, picture.size, together) for column in columns]
        ranges = [high - low for low, high in (torch.aminmax(c.clamp(min=0).flatten(1), dim=1) for c in columns)]
        sure = all((range > 1e-2 * columns[0].abs().max() + 1e-4 + 100 * noise).all() for range in ranges)
        forms = _forms(sized, question, network)
        same = [f for f in forms if f.shape == heat.shape]
        if not same and network.call != "one list":
            return Verdict("not of the image's size", f"{tuple(heat.shape)} for {picture.size}", kind)
        if sure and same and (same[0] - heat).abs().max() > 2e-2:
            return Verdict("resized wrongly", f"{(same[0] - heat).abs().max():.3g}", kind)
    try:
        raw.label(0, 0) if question.several else raw.label(0)
    except Exception as error:
        return Verdict("label", f"{type(error).__name__}: {error}", kind)
    return Verdict("right", "", kind)


def _check_place(network: Network, question: Question, at: Tapped, maps: Tensor, size: tuple[int, ...]) -> None:
    """Where an image is zero but in one place, and nothing mixes positions, no other place may have heat."""
    state = network.state
    picture = network.pictures.get(at.call.image)
    inside = picture is not None and picture.layout == "NC*" and len(picture.places) == len(maps)
    if not inside or state.mixes or question.method in ("eigen_cam", "recipro_cam") or network.call == "one list":
        return
    own_layers = ("segmentation", "segmentation and class", "branches", "steps", "modalities")
    if not network.silent or network.arrangement in own_layers:
        return
    reach = [r + 2 * s for r, s in zip(state.reach, state.step, strict=True)]
    for place, own in zip(picture.places, maps, strict=True):
        outside = place.outside(own.shape, size, reach)
        if place.alone and outside.any() and own[outside].abs().max() > 1e-6 * own.abs().max() + 1e-12:
            raise GeneratorError(f"heat outside of the evidence: {question}, {at.call}")


def _why_blank(columns: list[Tensor]) -> str:
    dead = any((c.flatten(1) == 0).all(1).any() for c in columns)
    negative = any((c.flatten(1) <= 0).all(1).any() for c in columns)
    return "the raw map is zero" if dead else "all values are negative" if negative else "the map is constant"


def _diagnosed(
    network: Network, question: Question, raw: Any, module: nn.Module, taps: list[Tapped], known: list[Tapped],
    output: Any, readings: list, kind: str,
) -> Verdict:  # fmt: skip
    """The heatmap is none of those that are right: what is it?"""
    axes = known[-1].call.axes
    told = f"{kind}, {axes.layout} {tuple(known[-1].activations.shape)}: heatmap {_shape(raw)}"
    if question.method not in ("recipro_cam", "ablation_cam", "score_cam"):
        for at in taps:
            for way, misread in _misreadings(at, network).items():
                columns = []
                try:
                    columns = [_expected(question, network, module, at, output, o, misread) for o in readings[0]]
                except (AssertionError, RuntimeError, IndexError):
                    continue
                if None not in columns and _fits(raw.heatmap, columns, question, network):
                    return Verdict(f"read as {way}, is {axes.layout}", told, kind)
        for scores in network.outputs:
            for way, objective in _mistaken(question, network, scores):
                try:
                    columns = [_expected(question, network, module, known[-1], output, objective, axes)]
                except (IndexError, RuntimeError):
                    continue
                if None not in columns and _fits(raw.heatmap, columns, question, network):
                    return Verdict(way, told, kind)
    same = tuple(raw.heatmap.shape[-len(axes.map) :]) == axes.sizes
    return Verdict("wrong values" if same else "wrong shape", f"{told}, expected a map {axes.sizes}", kind)


def _misreadings(at: Tapped, network: Network) -> dict[str, Axes]:
    shape, found = tuple(at.activations.shape), {}
    if len(shape) >= 3:
        found["NC*"] = Axes("NC*", shape[2:], tuple(range(len(shape) - 2)))
        found["N*C"] = Axes("N*C", shape[1:-1], tuple(range(len(shape) - 2)))
    axes = at.call.axes
    if len(shape) == 3 and axes is not None and axes.layout == "NC*":
        found |= {
            f"NTC with {p} tokens before": Axes("NTC", (shape[1] - p,), (0,), p) for p in range(1, min(9, shape[1]))
        }
    if axes is not None and len(axes.map) == 2 and axes.layout in ("NTC", "TNC"):
        found["rows of the turned grid"] = Axes(axes.layout, axes.map[::-1], (0, 1), axes.prefix)
        found["positions shifted by the prefix"] = Axes(axes.layout, axes.map, axes.along, 0)
    return found


def _mistaken(question: Question, network: Network, scores: Any) -> list[tuple[str, Objective]]:
    """Meanings of the target that are wrong."""
    many = scores.order in ("NQK", "QNK")
    if question.several or (question.readings is None and scores.order in ("NK", "1K")):
        return []
    c = question.targets if isinstance(question.targets, int) else None
    if isinstance(question.targets, Tensor) or (
        isinstance(question.targets, list) and isinstance(question.targets[0], int)
    ):
        each = [int(k) for k in question.targets]
        ways = [("query or step taken for the class", lambda row, i: row[each[i]].mean())] if many else []
        return [(way, Objective(scores, network.images, of)) for way, of in ways]
    if isinstance(question.targets, camfast.targets.Field) and isinstance(question.targets.target, int):
        c = question.targets.target
    if isinstance(question.targets, str) and question.class_names:
        c = question.class_names.index(question.targets)
    if c is None:
        return []
    n = network.images
    found = [
        ("another field of the output", Objective(scores, n, lambda row, i: row[c] if row.ndim == 1 else row[c].mean()))
    ]
    if many:
        found.insert(0, ("query or step taken for the class", Objective(scores, n, lambda row, i: row[c].mean())))
    return found


def _shape(result: Any) -> tuple[int, ...]:
    return tuple(result.heatmap.shape)
