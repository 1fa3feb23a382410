"""Boxes explained by what is around them: the part of the head that scores a level runs again, on a window for each box.

    level [C, 80, 80]  --+--  16 windows [C, 5, 5]  -- the part that made the scores -- a score each -- gradients [16, C, 5, 5]

This holds where a box's score comes from a few positions around its own. Nothing of it is taken on trust. Which part of the
model scores a level is seen in a pass (:class:`Calls`): a module that was called with levels and nothing else, and in whose
output the boxes' very scores stand. How far a box reaches is seen in a full backward pass, whose maps those of the windows
must equal before they are used (:mod:`camfast.detection.level_maps`). And in every use each window must give again the score
that the detector gave: what reaches in from beyond would change it.

The part that runs again is a twin: it shares the weights and has attributes of its own, so that the model does not notice.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..brief import Brief
from ..model.outputs import tensors_in
from ..model.restored import Restored
from ..model.tap import hookable, is_map

__all__ = ["Box", "Calls", "Part", "Window", "part_of", "windows_of"]


class Box(NamedTuple):
    """A box at its level: which image, row and column, class, and the number that is explained, without its graph."""

    image: int
    y: int
    x: int
    label: int
    value: Tensor


class Window(NamedTuple):
    """Where a window lies, and the level and its gradient there, ``[C, s, s]`` each."""

    rows: slice
    columns: slice
    activations: Tensor
    gradient: Tensor


# What a pass shows.


@dataclass(repr=False)
class _Call(Brief):
    """A module that was called with levels alone: its arguments, with the number of a level in place of its map."""

    module: nn.Module
    given: list[Any]
    spec: Any
    output: Any = None

    @property
    def levels(self) -> list[int]:
        return [one.number for one in self.given if isinstance(one, _Level)]


class _Level(NamedTuple):
    number: int


class Calls:
    """Notes, in a pass between ``with`` and its end, the calls of modules with levels and no other tensor, inner ones first."""

    def __init__(self, model: nn.Module, levels: Sequence[nn.Module]) -> None:
        self.found: list[_Call] = []
        self._model, self._levels = model, list(levels)
        self._number: dict[int, int] = {}  # of the level, by id of what its module returned
        self._alive: list[Tensor] = []  # so that no other tensor gets the id of one that is gone
        self._open: dict[nn.Module, list[_Call | None]] = {}
        self._thread = threading.get_ident()
        self._restored = Restored()

    def __enter__(self) -> Calls:
        own = weakref.proxy(self)  # so that one that is forgotten takes its hooks with it
        for number, level in enumerate(self._levels):
            self._restored.hook(level, lambda module, args, output, number=number: own._returned(number, output))
        for _, module in hookable(self._model):
            self._restored.hook(module, lambda *args: own._enters(*args), before=True, with_kwargs=True)
            self._restored.hook(module, lambda *args: own._leaves(*args))
        return self

    def __exit__(self, *exception: object) -> None:
        self._restored.close()
        self._alive.clear()
        self._open.clear()

    def _returned(self, number: int, output: Any) -> None:
        tensor = next(filter(is_map, tensors_in(output)), None)
        if tensor is not None and threading.get_ident() == self._thread:
            self._alive.append(tensor)
            self._number[id(tensor)] = number

    def _enters(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        given, spec = pytree.tree_flatten((args, kwargs))
        tensors = [value for value in given if isinstance(value, Tensor)]
        call = None
        if tensors and all(id(tensor) in self._number for tensor in tensors):
            marked = [_Level(self._number[id(v)]) if isinstance(v, Tensor) else v for v in given]
            call = _Call(module, marked, spec)
        self._open.setdefault(module, []).append(call)

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread or not self._open.get(module):
            return
        call = self._open[module].pop()
        if call is not None:
            call.output = output
            self.found.append(call)


# The part that scores a level.


@dataclass(repr=False)
class Part(Brief):
    """A part of the model that scores level ``level``, and where in its output the scores are."""

    level: int
    call: _Call
    place: int  # of the tensor among those of the output
    rows: Callable[[Tensor, int, int], Tensor]
    start: int  # of the channels, that of the first class
    squashed: bool  # whether the detector's number is the sigmoid of what stands there

    def values(self, output: Any, labels: Tensor, at: Tensor, before: int, count: int) -> Tensor:
        """The number ``[B]`` of each window, of position ``at`` ``[B]`` in it, behind ``before`` positions of other levels."""
        rows = self.rows(list(tensors_in(output))[self.place], before, count)
        found = rows[torch.arange(len(at), device=at.device), at, labels + self.start]
        return found.sigmoid() if self.squashed else found


def _channels_first(T: Tensor, before: int, count: int) -> Tensor:
    """Of ``[N, C, h, w]`` or ``[N, C, A]``."""
    return T.flatten(2).transpose(1, 2)[:, before : before + count]


def _channels_last(T: Tensor, before: int, count: int) -> Tensor:
    """Of ``[N, h, w, C]`` or ``[N, A, C]``."""
    return T.flatten(1, -2)[:, before : before + count]


_FORMS = (_channels_first, _channels_last)
"""Views of a level's scores as ``[N, positions, C]``: of ``count`` positions that stand behind ``before`` others."""


def part_of(calls: Calls, level: int, grids: Sequence[Tensor], boxes: Sequence[Box]) -> Part | None:
    """The innermost part of the model in whose output the numbers of ``boxes``, all at ``level``, stand; None without any."""
    values = torch.stack([box.value for box in boxes])
    for call in calls.found:
        if level not in call.levels or len(set(call.levels)) < len(call.levels):
            continue
        before, count = _span(call, level, [A.shape[2:] for A in grids])
        for place, T in enumerate(tensors_in(call.output)):
            if not is_map(T) or len(T) != len(grids[level]):
                continue
            for rows in _FORMS:
                found = _start(rows(T.detach(), before, count), boxes, values, grids[level].shape[3])
                if found is not None:
                    return Part(level, replace(call, output=None), place, rows, *found)
    return None


def _span(call: _Call, level: int, sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many positions stand before a level's in the output of a call, and how many it has itself."""
    counts = {number: sizes[number][0] * sizes[number][1] for number in call.levels}
    return sum(counts[number] for number in call.levels[: call.levels.index(level)]), counts[level]


def _start(rows: Tensor, boxes: Sequence[Box], values: Tensor, width: int) -> tuple[int, bool] | None:
    """The channel of the first class, and whether numbers are sigmoids of what stands there; None if they do not stand there."""
    if any(box.y * width + box.x >= rows.shape[1] for box in boxes):
        return None
    mine = torch.stack([rows[box.image, box.y * width + box.x] for box in boxes])
    count = mine.shape[1] - max(box.label for box in boxes)
    if count < 1:
        return None
    shifted = torch.stack([row[box.label : box.label + count] for row, box in zip(mine, boxes, strict=True)])
    for squashed in (False, True):
        same = ((shifted.sigmoid() if squashed else shifted) == values[:, None]).all(0).nonzero()
        if len(same):
            return int(same[0]), squashed
    return None


# Windows.


def windows_of(part: Part, grids: Sequence[Tensor], boxes: Sequence[Box], reach: int) -> list[Window] | None:
    """The window of each of ``boxes``, with the gradient of its number; None where the windows do not give these numbers."""
    A = grids[part.level]
    height, width = A.shape[2:]
    side = 2 * reach + 1
    if side > min(height, width):
        return None
    corners = [(_inside(box.y - reach, height - side), _inside(box.x - reach, width - side)) for box in boxes]
    places = [(slice(y, y + side), slice(x, x + side)) for y, x in corners]
    cut = torch.stack([A[box.image, :, rows, columns] for box, (rows, columns) in zip(boxes, places, strict=True)])
    cut = cut.detach().requires_grad_()
    at = [(box.y - y) * side + box.x - x for box, (y, x) in zip(boxes, corners, strict=True)]
    shapes = [(side, side)] * len(grids)
    with torch.enable_grad():
        output = _again(part.call, {part.level: cut}, grids, side)
        labels = torch.tensor([box.label for box in boxes], device=A.device)
        before, count = _span(part.call, part.level, shapes)
        values = part.values(output, labels, torch.tensor(at, device=A.device), before, count)
        (gradients,) = torch.autograd.grad(values.sum(), cut)
    expected = torch.stack([box.value for box in boxes])
    if not _same(values.detach(), expected):
        return None
    found = zip(places, cut.detach(), gradients, strict=True)
    return [Window(rows, columns, a, g) for (rows, columns), a, g in found]


def _inside(corner: int, last: int) -> int:
    return min(max(corner, 0), last)


def _same(values: Tensor, expected: Tensor) -> bool:
    """Whether numbers are equal but for rounding, which sums of other lengths do in another order."""
    wide = torch.float64 if expected.dtype == torch.float64 else torch.float32
    coarsest = max((values.dtype, expected.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    tolerance = _ROUNDING * torch.finfo(coarsest).eps
    off = (values.to(wide) - expected.to(wide)).abs()
    return bool((off <= tolerance * expected.to(wide).abs().clamp(min=1)).all())


_ROUNDING = 200  # units in the last place


def _again(call: _Call, cut: dict[int, Tensor], grids: Sequence[Tensor], side: int) -> Any:
    """The call once more, of windows; levels that are not looked at are zero."""
    like = next(iter(cut.values()))

    def level(number: int) -> Tensor:
        if number in cut:
            return cut[number].clone()  # the part may change it in place
        return like.new_zeros(len(like), grids[number].shape[1], side, side)

    given = [level(value.number) if isinstance(value, _Level) else value for value in call.given]
    args, kwargs = pytree.tree_unflatten(given, call.spec)
    return _twin(call.module, {})(*args, **kwargs)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _twin(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """A module of the same weights and without hooks, whose attributes, and those of the modules in it, are its own."""
    if id(module) in made:
        return made[id(module)]
    twin = made[id(module)] = object.__new__(type(module))
    own = {name: _own(value, module, twin) for name, value in vars(module).items()}
    foreign = "forward" in own and getattr(own["forward"], "__self__", None) is not twin
    if foreign or isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"expected modules that run in Python by themselves, got {type(module).__name__}")
    own |= {name: OrderedDict() for name in _HOOKS}
    own["_modules"] = {name: None if part is None else _twin(part, made) for name, part in module._modules.items()}
    own["_compiled_call_impl"] = None
    twin.__dict__.update(own)
    return twin


def _own(value: Any, module: nn.Module, twin: nn.Module) -> Any:
    """What stands for an attribute of ``module`` in its twin: a method bound to the twin, a container with the same in it."""
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, twin)
    return value.copy() if type(value) in (dict, OrderedDict, list, set) else value
