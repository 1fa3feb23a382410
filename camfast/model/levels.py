"""The levels of a detector: the maps that its head reads, one of each resolution, found by evidence.

    image -> ... -> map /8 --+--> map /16 --+--> map /32
                     |              |              |
                     +------- boxes and scores ----+

A level is a map on which both the boxes and the scores depend, the last such map of its resolution, and which reaches the
scores by a way that passes through no other level. Gradients of two passes tell. Levels in which nothing was found, so
that nothing depends on them, come in by the company they keep: where a module is called with several maps at once, such
as a head or a pyramid's last step, and some of these are levels, so are the others.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .find_layer import Candidate, candidate_maps, record
from .inputs import Inputs
from .layers import refuse_exported
from .layouts import Layout
from .outputs import tensors_in
from .probe import Planted, read
from .tap import Tap, is_map
from .untouched import quiet

__all__ = ["Objectives", "find_levels"]

Objectives = Callable[[Any], tuple[Tensor, Tensor | None]]
"""From what the model returned: a scalar of all class scores, and one of all boxes, or None where boxes have no graph."""

_ROUNDS = 4  # how deep containers are looked into for the map that they return beside others
_PLAIN = 2  # doubts of a candidate that is rather something else, such as attention


def find_levels(model: nn.Module, inputs: Inputs, objectives: Objectives) -> list[str]:
    """Names of the layers that give the levels of a detector, those of the finest map first.

    Args:
        model: the detector, in any mode.
        inputs: its arguments, of one image in which it finds something.
        objectives: what to differentiate.

    Raises:
        ValueError: the scores depend on no map.
    """
    refuse_exported(model)
    steps, _, last_weight = record(model, inputs)
    found = candidate_maps(model, inputs, steps, None, last_weight)
    maps = [c for c in found if len(c.layout.map) == 2 and c.doubts < _PLAIN]
    maps.sort(key=lambda candidate: candidate.step.turn)
    if not maps:
        raise ValueError(
            f"expected a detector with maps of the image, got none in {type(model).__name__}; name layers="
        )
    reached = _reached(model, inputs, maps, objectives)
    last = _last_of_each_size(model, inputs, reached)
    levels = _without_detours(model, inputs, last, objectives)
    if not levels:
        raise ValueError(
            f"expected a detector whose scores depend on its maps through differentiable operations, got none in "
            f"{type(model).__name__}: its head may detach them, run under no_grad, or be compiled"
        )
    levels = _with_company(model, inputs, levels, maps)
    levels.sort(key=lambda candidate: -math.prod(candidate.layout.map))
    return [candidate.step.name for candidate in levels]


def _reached(
    model: nn.Module, inputs: Inputs, maps: list[Candidate], objectives: Objectives
) -> list[tuple[Candidate, Tensor, Tensor]]:
    """The maps on which scores and boxes depend, with their activations and the gradient of the scores."""
    for _ in range(_ROUNDS):
        with Tap(model, [c.step.module for c in maps]) as tap:
            output = tap.run(inputs)
            with torch.enable_grad():
                scores, boxes = objectives(output)
            of_scores = _gradients(tap, scores, keep=True)
            of_boxes = of_scores if boxes is None else _gradients(tap, boxes)
            activations = tap.activations
        # A container may return the map beside what it made of it: then a part inside is what the scores depend on.
        hidden = [c for c, gradient in zip(maps, of_scores, strict=True) if gradient is None and c.step.inner]
        if not hidden:
            break
        for candidate in hidden:
            candidate.step.name, candidate.step.module = candidate.step.inner.pop()
    if not any(_any(gradient) for gradient in of_boxes):
        of_boxes = of_scores  # boxes may be cut off, as proposals are
    found = []
    for candidate, A, of_score, of_box in zip(maps, activations, of_scores, of_boxes, strict=True):
        # A module that ran several times, on maps of different sizes, is tapped at its last call.
        if of_score is not None and tuple(A.shape) == candidate.step.shape and _any(of_score) and _any(of_box):
            found.append((candidate, A, of_score))
    return found


def _gradients(tap: Tap, value: Tensor, keep: bool = False) -> list[Tensor | None]:
    return tap.gradients(value, missing_ok=True, keep=keep)


def _any(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _last_of_each_size(
    model: nn.Module, inputs: Inputs, reached: list[tuple[Candidate, Tensor, Tensor]]
) -> list[Candidate]:
    """Of each resolution the last map, by a planted change: what does not follow the image's places is none."""
    planted = Planted(model, inputs)
    last: dict[tuple[int, ...], Candidate] = {}
    for candidate, A, gradient in reversed(reached):
        if candidate.layout.map in last:
            continue
        layout = read(model, candidate.step.module, candidate.step.name, A, planted).layout
        if layout is None or len(layout.map) != 2 or layout.map in last or not _at_most_places(layout, gradient):
            continue
        last[layout.map] = candidate._replace(layout=layout)
    return list(last.values())


def _at_most_places(layout: Layout, gradient: Tensor) -> bool:
    """Of tokens most positions must be reached, not the class token alone; of maps one is enough: a box is local."""
    places = layout.view(gradient).any(1).float().mean().item()
    return places > (0 if layout.kind == "channels_first" else 0.5)


def _without_detours(
    model: nn.Module, inputs: Inputs, maps: list[Candidate], objectives: Objectives
) -> list[Candidate]:
    """Those of ``maps`` that reach the scores by a way that passes through none of the others."""
    if len(maps) < 2:
        return maps
    with Tap(model, [c.step.module for c in maps]) as tap:
        tap.separate = True
        scores, _ = _of_objectives(objectives, tap.run(inputs))
        gradients = _gradients(tap, scores)
    return [candidate for candidate, gradient in zip(maps, gradients, strict=True) if _any(gradient)]


def _of_objectives(objectives: Objectives, output: Any) -> tuple[Tensor, Tensor | None]:
    with torch.enable_grad():
        return objectives(output)


def _with_company(model: nn.Module, inputs: Inputs, levels: list[Candidate], maps: list[Candidate]) -> list[Candidate]:
    """``levels``, and of resolutions that are not among them the maps with which these go into one module together."""
    by_tensor: dict[int, Candidate] = {}
    groups: list[list[Candidate]] = []
    alive: list[Tensor] = []
    thread = threading.get_ident()

    def note(candidate: Candidate, output: Any) -> None:
        tensor = next(filter(is_map, tensors_in(output)), None)
        if tensor is not None and threading.get_ident() == thread:
            alive.append(tensor)
            by_tensor[id(tensor)] = candidate

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        for several in _several(list(args) + list(kwargs.values())):
            group = [by_tensor[id(tensor)] for tensor in several if id(tensor) in by_tensor]
            if len({candidate.layout.map for candidate in group}) > 1:
                groups.append(group)

    handles = []
    try:
        for candidate in maps:
            hook = lambda module, args, output, candidate=candidate: note(candidate, output)  # noqa: E731
            handles.append(candidate.step.module.register_forward_hook(hook))
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(look, with_kwargs=True))
        with quiet(model), torch.no_grad():
            cut = inputs.cut()
            model(*cut.args, **cut.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    modules = {candidate.step.module for candidate in levels}
    found = list(levels)
    for group in groups:
        if modules & {candidate.step.module for candidate in group}:
            sizes = {candidate.layout.map for candidate in found}
            found += [candidate for candidate in group if candidate.layout.map not in sizes]
    return found


def _several(args: list[Any]) -> Iterator[list[Tensor]]:
    """Lists and mappings of several maps among the arguments of a module."""
    for value in args:
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(t, Tensor) for t in value):
            yield [t for t in value if is_map(t)]
