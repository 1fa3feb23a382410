"""Which maps of a detector are steps of its head: what it ends in, and what it makes of a level alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .find_layer import Candidate
from .inputs import Inputs
from .outputs import replace_first, tensors_in
from .restored import Restored
from .tap import is_map
from .untouched import quiet

__all__ = ["changed", "ends_among", "listening", "tensors_given", "without_derived"]


@contextlib.contextmanager
def listening(
    model: nn.Module,
    candidates: Sequence[Candidate],
    note: Callable[[Candidate, Any], Any],
    look: Callable[[nn.Module, list[Any]], None] | None = None,
) -> Iterator[None]:
    """Within the block, in this thread, ``note`` is told what each candidate's module gives, and ``look`` what modules get.

    What ``note`` returns takes the output's place, unless it is None.
    """
    thread = threading.get_ident()

    def gives(candidate: Candidate) -> Callable[..., Any]:
        return lambda module, args, output: note(candidate, output) if threading.get_ident() == thread else None

    def gets(module: nn.Module, args: Any, kwargs: Any) -> None:
        if look is not None and threading.get_ident() == thread:
            look(module, [*args, *kwargs.values()])

    with Restored() as restored:
        for candidate in candidates:
            restored.hook(candidate.step.module, gives(candidate))
        for module in model.modules() if look is not None else ():
            if not isinstance(module, torch.jit.ScriptModule):
                restored.hook(module, gets, before=True, with_kwargs=True)
        yield


def ends_among(model: nn.Module, inputs: Inputs, ends: list[Candidate]) -> list[Candidate]:
    """Those of ``ends``, outputs of bare convolutions that no module with weights takes, that the head ends in indeed.

    The others reach such a module as a map by way of plain functions, as an activation is.
    """
    if not ends:
        return ends
    leaves: dict[int, Tensor] = {}
    taken: list[Any] = []  # nodes of the graphs of what modules with weights were called with

    def begin(candidate: Candidate, output: Any) -> Any:
        leaf = next(filter(is_map, tensors_in(output))).detach().requires_grad_()
        leaves[id(candidate.step)] = leaf
        return replace_first(output, is_map, lambda _: leaf.clone())[0]

    def look(module: nn.Module, given: list[Any]) -> None:
        if next(module.parameters(recurse=False), None) is not None:
            taken.extend(t.grad_fn for t in tensors_given(given) if t.ndim == 4 and t.grad_fn is not None)

    try:
        with listening(model, ends, begin, look), quiet(model), torch.enable_grad():
            cut = inputs.cut()
            model(*cut.args, **cut.kwargs)
    except RuntimeError:  # where no graph can be recorded from the start
        return ends
    used = _leaves_of(taken)
    return [c for c in ends if id(leaves.get(id(c.step))) not in used]


def _leaves_of(nodes: list[Any]) -> set[int]:
    """Ids of the tensors that the graphs behind ``nodes`` begin with."""
    found: set[int] = set()
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes.extend(following for following, _ in node.next_functions if following is not None)
    return found


def without_derived(model: nn.Module, inputs: Inputs, levels: list[Candidate]) -> list[Candidate]:
    """``levels`` without those made of an earlier one of their resolution and other levels alone: a head's own steps.

    The first of each resolution are held as they were while the image changes: what stays the same then is made of them.
    """
    first: dict[tuple[int, ...], Candidate] = {}
    for candidate in sorted(levels, key=lambda candidate: candidate.step.turn):
        first.setdefault(candidate.layout.map, candidate)
    held = {id(candidate.step) for candidate in first.values()}
    if len(held) == len(levels):
        return levels
    before: dict[int, Tensor] = {}
    derived: set[int] = set()
    again = False

    def note(candidate: Candidate, output: Any) -> Any:
        tensor, key = next(filter(is_map, tensors_in(output)), None), id(candidate.step)
        if tensor is None:
            return None
        if not again:
            before[key] = tensor.detach().clone()
            return None
        own = before.get(key)
        if own is None or own.shape != tensor.shape:
            return None
        if key in held:
            return replace_first(output, is_map, lambda _: own.clone())[0]
        if torch.equal(own, tensor):
            derived.add(key)
        return None

    with listening(model, levels, note), quiet(model), torch.no_grad():
        for cut in (inputs.cut(), changed(inputs).cut()):
            model(*cut.args, **cut.kwargs)
            again = True
    return [candidate for candidate in levels if id(candidate.step) not in derived]


def changed(inputs: Inputs) -> Inputs:
    image = inputs.image.detach()
    return inputs.with_image((image.flip(-1) * 0.5 + 0.25).to(image.dtype))


def tensors_given(values: list[Any]) -> Iterator[Tensor]:
    """Tensors among the arguments of a module, and in lists and mappings among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from tensors_given(list(value.values()))
        elif isinstance(value, (list, tuple)):
            yield from tensors_given(list(value))
