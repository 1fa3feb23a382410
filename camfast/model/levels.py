"""The levels of a detector: the maps that its head reads, found by evidence.

    image -> ... -> map /8 --+--> map /16 --+--> map /32
                     |              |              |
                     +------- boxes and scores ----+

A head that detaches its levels, as end-to-end branches may, hides them: then the first maps behind that count, one of each
resolution.

A level is a map of the image on which both the boxes and the scores depend, and which reaches the scores by a way that
passes through no other such map: what is left where a pass is cut at all of them. Gradients tell. Levels in which nothing
was found, so that nothing depends on them, come in by the company they keep: where a module is called with several maps at
once, such as a head or a pyramid's last step, and some of these are levels, so are the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .find_layer import Candidate, candidate_maps, record
from .head_steps import changed, ends_among, listening, tensors_given, without_derived
from .inputs import Inputs
from .layers import refuse_exported
from .layouts import Layout, layout_of
from .outputs import tensors_in
from .probe import Planted, read, read_layer
from .tap import NoGradient, Tap, is_map
from .untouched import quiet

__all__ = ["Objectives", "find_levels", "layout_of_level"]

Objectives = Callable[[Any], tuple[Tensor, Tensor | None, Tensor]]
"""From what the model returned: a scalar of all class scores; one of all boxes, or None where boxes have no graph; and the
boxes themselves, ``[A, 4]``."""

_ROUNDS = 4  # how deep containers are looked into for the map that they return beside others
_PLAIN = 2  # doubts of a candidate that is rather something else, such as attention
_ALIKE = 1.25  # of proportions
_IN_ORDER = 0.5  # correlation of boxes with the places of a grid


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
    maps = [c for c in found if len(c.layout.map) == 2 and c.step.turn < last_weight and _is_likely(c, inputs)]
    maps.sort(key=lambda candidate: candidate.step.turn)
    if not maps:
        raise ValueError(
            f"expected a detector with maps of the image, got none in {type(model).__name__}; name layers="
        )
    seen = _watched(model, inputs, maps)
    maps = [c for c in maps if id(c.step) in seen.of_image]
    # A module that every level passes through is a step of the head: of its calls a tap would see one.
    maps = [c for c in maps if len(seen.sizes[id(c.step)]) == 1] or maps
    ends = [c for c in maps if isinstance(c.step.module, nn.Conv2d) and id(c.step) not in seen.taken]
    ends = ends_among(model, inputs, ends)
    maps = [c for c in maps if not any(c is end for end in ends)]
    try:
        reached = _reached(model, inputs, maps, objectives)
        levels = _frontier(model, inputs, reached, objectives) or _first_behind(model, inputs, maps, objectives)
    except NoGradient:
        levels = []
    if not levels:
        raise ValueError(
            f"expected a detector whose scores depend on its maps through differentiable operations, got none in "
            f"{type(model).__name__}: its head may detach them, run under no_grad, or be compiled"
        )
    levels = without_derived(model, inputs, _with_company(levels, seen.groups))
    levels.sort(key=lambda candidate: -math.prod(candidate.layout.map))
    return [candidate.step.name for candidate in levels]


def _is_likely(candidate: Candidate, inputs: Inputs) -> bool:
    """Whether a candidate may be a map: attention, ``[N, heads, T, T]``, comes from modules without weights."""
    if candidate.doubts < _PLAIN:
        return True
    weighs = next(candidate.step.module.parameters(), None) is not None
    return (
        weighs and candidate.layout.kind == "channels_first" and _alike(candidate.layout.map, inputs.image.shape[-2:])
    )


# What a pass shows of who takes which map.


class _Seen(NamedTuple):
    groups: list[list[Candidate]]  # maps that a module was called with at once
    taken: set[int]  # by id of their steps: maps that a module with weights was called with
    of_image: set[int]  # maps that change with the image; embeddings of positions do not
    sizes: dict[int, set[torch.Size]]  # of the maps that a module gave in one pass


def _watched(model: nn.Module, inputs: Inputs, maps: list[Candidate]) -> _Seen:
    """Two passes, the second of a changed image."""
    by_tensor: dict[int, Candidate] = {}
    alive: list[Tensor] = []  # so that no other tensor gets the number of one that is gone
    seen = _Seen([], set(), set(), {})
    before: dict[int, Tensor] = {}
    again = False

    def note(candidate: Candidate, output: Any) -> None:
        tensor = next(filter(is_map, tensors_in(output)), None)
        if tensor is None:
            return
        key = id(candidate.step)
        seen.sizes.setdefault(key, set()).add(tensor.shape)
        if not again:
            alive.append(tensor)
            by_tensor[id(tensor)] = candidate
            before[key] = tensor.detach().clone()
        elif key in before and (before[key].shape != tensor.shape or not torch.equal(before[key], tensor)):
            seen.of_image.add(key)

    def look(module: nn.Module, given: list[Any]) -> None:
        if again:
            return
        if next(module.parameters(), None) is not None:
            seen.taken.update(id(by_tensor[id(t)].step) for t in tensors_given(given) if id(t) in by_tensor)
        for value in given:
            group = [by_tensor[id(t)] for t in tensors_given([value]) if id(t) in by_tensor]
            if len({candidate.layout.map for candidate in group}) > 1:
                seen.groups.append(group)

    with listening(model, maps, note, look), quiet(model), torch.no_grad():
        cut = inputs.cut()
        model(*cut.args, **cut.kwargs)
        again = True
        cut = changed(inputs).cut()
        model(*cut.args, **cut.kwargs)
    return seen


# What depends on what.


class _Reached(NamedTuple):
    candidate: Candidate
    activations: Tensor


def _reached(model: nn.Module, inputs: Inputs, maps: list[Candidate], objectives: Objectives) -> list[_Reached]:
    """The maps on which scores and boxes depend, at most places of tokens and at some of others, with their activations."""
    for _ in range(_ROUNDS):
        with Tap(model, [c.step.module for c in maps]) as tap:
            output = tap.run(inputs)
            scores, boxes, corners = _of(objectives, output)
            of_scores = tap.gradients(scores, missing_ok=True, keep=True)
            of_boxes = of_scores if boxes is None else tap.gradients(boxes, missing_ok=True)
            activations = tap.activations
        # A container may return the map beside what it made of it: then a part inside is what the scores depend on.
        hidden = [c for c, gradient in zip(maps, of_scores, strict=True) if gradient is None and c.step.inner]
        if not hidden:
            break
        for candidate in hidden:
            candidate.step.name, candidate.step.module = candidate.step.inner.pop()
    if not any(gradient is not None and gradient.any() for gradient in of_boxes):
        of_boxes = of_scores  # boxes may be cut off, as proposals are
    found = []
    for candidate, A, *both in zip(maps, activations, of_scores, of_boxes, strict=True):
        # A module that ran several times, on maps of different sizes, is tapped at its last call.
        if tuple(A.shape) != candidate.step.shape or not all(_at_places(candidate.layout, G) for G in both):
            continue
        if not _are_queries(candidate, corners.detach()):
            found.append(_Reached(candidate, A))
    return found


def _are_queries(candidate: Candidate, boxes: Tensor) -> bool:
    """Whether tokens stand for boxes ``[A, 4]`` instead of places: as many, and their boxes do not lie as places would."""
    shape, grid = candidate.step.shape, candidate.layout.map
    if len(shape) != 3 or len(boxes) not in shape[:2]:
        return False
    if math.prod(grid) != len(boxes):
        return True
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = (boxes[:, :2] + boxes[:, 2:]).float().cpu()
    together = torch.stack([centres[:, 0], columns.flatten().float(), centres[:, 1], rows.flatten().float()])
    alike = torch.corrcoef(together).nan_to_num(0)
    return bool(alike[0, 1] < _IN_ORDER or alike[2, 3] < _IN_ORDER)


def _first_behind(model: nn.Module, inputs: Inputs, maps: list[Candidate], objectives: Objectives) -> list[Candidate]:
    """Of each resolution the first map on which the scores alone depend, where a head reads its levels detached."""
    first: dict[tuple[int, ...], Candidate] = {}
    for candidate, _ in _reached(
        model, inputs, maps, lambda output: (objectives(output)[0], None, objectives(output)[2])
    ):
        first.setdefault(candidate.layout.map, candidate)
    return list(first.values())


def _of(objectives: Objectives, output: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    with torch.enable_grad():
        return objectives(output)


def _at_places(layout: Layout, gradient: Tensor | None) -> bool:
    """Whether a gradient reaches most places of tokens, not some token alone; of maps one is enough, since boxes are local."""
    if gradient is None:
        return False
    places = layout.view(gradient).any(1).float().mean().item()
    return places > (0 if layout.kind == "channels_first" else 0.5)


def _frontier(model: nn.Module, inputs: Inputs, reached: list[_Reached], objectives: Objectives) -> list[Candidate]:
    """Those that reach the scores by a way that passes through none of the others, and that follow the image's places."""
    planted = Planted(model, inputs)
    while reached:
        with Tap(model, [one.candidate.step.module for one in reached]) as tap:
            tap.separate = True
            scores, _, _ = _of(objectives, tap.run(inputs))
            gradients = tap.gradients(scores, missing_ok=True)
        last = [one for one, G in zip(reached, gradients, strict=True) if _at_places(one.candidate.layout, G)]
        if not last:
            return [reached[-1].candidate]
        levels = []
        for candidate, A in last:
            layout = _plain_layout(A, inputs, model)
            if layout is None:
                layout = read(model, candidate.step.module, candidate.step.name, A, planted).layout
            if layout is not None and len(layout.map) == 2:
                levels.append(candidate._replace(layout=layout))
        if len(levels) == len(last):
            return levels
        none = {id(one.candidate.step) for one in last} - {id(candidate.step) for candidate in levels}
        reached = [one for one in reached if id(one.candidate.step) not in none]  # no map: nothing is cut there
    return []


def _with_company(levels: list[Candidate], groups: list[list[Candidate]]) -> list[Candidate]:
    """``levels``, and of resolutions that are not among them the maps with which these go into one module together."""
    own = {id(candidate.step) for candidate in levels}
    found = list(levels)
    for group in groups:
        if own & {id(candidate.step) for candidate in group}:
            sizes = {candidate.layout.map for candidate in found}
            found += [candidate for candidate in group if candidate.layout.map not in sizes]
    return found


# Where the places are.


def layout_of_level(
    model: nn.Module, module: nn.Module, name: str, activations: Tensor, inputs: Inputs, eval_mode: bool = True
) -> Layout:
    """Where the places are in the output of a level, ``activations``, in a pass of ``inputs``.

    Raises ``ValueError`` where there is no map of the image.
    """
    layout = _plain_layout(activations, inputs, model)
    if layout is None:
        layout = read_layer(model, module, name, activations, inputs, eval_mode).layout
    if layout is None or len(layout.map) != 2:
        raise ValueError(
            f"layer {name!r} must give a map of the image, got {list(activations.shape)} for images {list(inputs.image.shape)}"
        )
    return layout


def _plain_layout(A: Tensor, inputs: Inputs, model: nn.Module) -> Layout | None:
    """``[N, C, h, w]`` of roughly the image's proportions, which scaling and padding inside a detector change a little.

    None for anything else, and where ``[N, h, w, C]`` has these proportions as well: there only evidence tells.
    """
    if A.ndim != 4 or A.shape[0] != inputs.batch:
        return None
    layout = layout_of(A.shape, inputs.image.shape, model)
    size = tuple(inputs.image.shape[-2:])
    if layout is None or layout.kind != "channels_first" or len(layout.map) != 2 or _alike(tuple(A.shape[1:3]), size):
        return None
    return layout if _alike(layout.map, size) else None


def _alike(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether the sides of ``grid`` are to one another as those of ``size``, give or take a quarter, or one position."""
    ratio = (grid[0] * size[1]) / (grid[1] * size[0])
    return _ALIKE > ratio > 1 / _ALIKE or abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)
