"""The layer to explain where none is named: the last one with a spatial map."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .inputs import Inputs
from .layouts import Layout, layout_of
from .outputs import scores_in, tensors_in
from .tap import Tap, hookable, is_map
from .untouched import quiet

__all__ = ["find_layers"]


_AT_ONCE = 8  # candidates whose gradients are taken in one pass


_ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


@dataclass(eq=False)
class _Step:
    """One distinct output of one pass, by the outermost module that returned it."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    pooled: bool  # an adaptive pooling's output: what follows the map, not the map
    turn: int  # how many modules had returned before
    inner: list[tuple[str, nn.Module]] = field(
        default_factory=list
    )  # those inside that returned it first, innermost first


class _Candidate(NamedTuple):
    step: _Step
    layout: Layout
    doubts: int


# Layers found before, by model and image shape: repeated calls of the functional forms need no second search.
_found: weakref.WeakKeyDictionary[nn.Module, dict[Any, weakref.ref[nn.Module]]] = weakref.WeakKeyDictionary()


def find_layers(model: nn.Module, inputs: Inputs, gradients: bool = True) -> list[str]:
    """The name of the last layer of ``model`` with a spatial map, as a list of one.

    One pass over the first image notes what every module returns. Pooled maps are left out, and so are the class maps
    that a segmentation network or a convolutional head ends in. A second pass takes gradients: a layer must be
    connected to the scores, and a transformer's must pass a gradient to most positions, not to the class token alone.
    Without ``gradients``, for methods that take none, a head that cannot be differentiated does not matter.

    Raises ``ValueError`` when the model has no such layer.
    """
    key = (*inputs.image.shape[1:], gradients)
    known = _found.get(model, {}).get(key)
    layer = known() if known is not None else None
    if layer is not None:
        for name, module in model.named_modules():
            if module is layer:
                return [name]
    name, layer = _search(model, inputs, gradients)
    _found.setdefault(model, {})[key] = weakref.ref(layer)
    return [name]


def _search(model: nn.Module, batch: Inputs, differentiable: bool) -> tuple[str, nn.Module]:
    inputs = batch.first()
    try:
        record = _record(model, inputs)
    except Exception:
        if batch.batch == 1:
            raise
        inputs, record = batch, _record(model, batch)  # exported for this batch size, perhaps
    candidates = _of_the_image(model, inputs, _candidates(model, inputs, *record))
    silent: _Step | None = None
    # From the last one backwards: it alone, which is mostly enough, then a few at a time, so that graphs stay short.
    bounds = [len(candidates), *range(len(candidates) - 1, 0, -_AT_ONCE), 0] if candidates else []
    for end, start in itertools.pairwise(bounds):
        group = candidates[start:end]
        gradients = _gradients(model, inputs, [candidate.step.module for candidate in group])
        for (step, layout, _), gradient in reversed(list(zip(group, gradients, strict=True))):
            # A container may return the map beside what it made of it, as Hugging Face's do: the scores do not depend
            # on the map it returns, but on that of a part inside.
            while gradient is None and step.inner:
                step.name, step.module = step.inner.pop()
                (gradient,) = _gradients(model, inputs, [step.module])
            # A module that ran several times, on maps of different sizes, is tapped at its last call.
            if gradient is None or tuple(gradient.shape) != step.shape:
                continue
            reached = layout.view(gradient).any(1).float().mean().item()
            if reached > (0 if layout.kind == "channels_first" else 0.5):
                return step.name, step.module
            if silent is None and not gradient.any():
                silent = step
    if silent is None and candidates and not differentiable:
        return candidates[-1].step.name, candidates[-1].step.module
    if silent is None and candidates:
        last = candidates[-1].step.name
        raise ValueError(
            f"expected a layer that the scores of {type(model).__name__} depend on through differentiable operations, "
            f"got none: what follows {last!r} may be quantized, compiled, or under no_grad; methods without gradients, "
            "such as EigenCAM, can explain it"
        )
    if silent is None:  # a head of zeros gives no gradient anywhere, and no reason to prefer another layer
        raise ValueError(
            f"expected a layer with a spatial map, got none in {type(model).__name__} "
            f"for images {list(inputs.image.shape)}; name one by layers="
        )
    return silent.name, silent.module


def _record(model: nn.Module, inputs: Inputs) -> tuple[list[_Step], Any, int]:
    """Every distinct map returned in one pass, the model's output, and the turn of the last module with weights.

    Tensors are told apart by identity and version without being kept, so that the pass takes no more memory than usual.
    """
    steps: list[_Step] = []
    latest: dict[int, tuple[weakref.ref[Tensor], int, _Step]] = {}  # by id: the tensor, its version, its step
    turn = last_weight = 0
    thread = threading.get_ident()

    def note(name: str, module: nn.Module, output: Any) -> None:
        nonlocal turn, last_weight
        if threading.get_ident() != thread:
            return
        turn += 1
        if any(parameter is not None for parameter in module._parameters.values()):
            last_weight = turn
        tensor = next(filter(is_map, tensors_in(output)), None)
        if tensor is None:
            return
        pooled = isinstance(module, _ADAPTIVE)
        version = 0 if tensor.is_inference() else tensor._version
        reference, earlier, step = latest.get(id(tensor), (None, 0, None))
        if step is not None and reference is not None and reference() is tensor:
            if version == earlier:  # passed on: a container's output is that of its last part
                if step.name.startswith(name + "."):
                    step.inner.append((step.name, step.module))
                    step.name, step.module = name, module
                return
            steps.remove(step)  # overwritten in place
            pooled = pooled or step.pooled
        step = _Step(name, module, tuple(tensor.shape), pooled, turn)
        steps.append(step)
        latest[id(tensor)] = (weakref.ref(tensor), version, step)

    handles = []
    try:
        for name, module in hookable(model):
            if name:
                hook = lambda module, args, output, name=name: note(name, module, output)  # noqa: E731
                handles.append(module.register_forward_hook(hook))
        with quiet(model), torch.no_grad():
            cut = inputs.cut()
            output = model(*cut.args, **cut.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return steps, output, last_weight


def _candidates(
    model: nn.Module, inputs: Inputs, steps: list[_Step], output: Any, last_weight: int
) -> list[_Candidate]:
    """The maps among ``steps``, those that are rather something else first, the likeliest ones last."""
    scores = scores_in(output)
    classes = scores.shape[1] if scores is not None and scores.ndim > 1 else None
    segments = scores is not None and scores.ndim > 2
    batch = inputs.batch
    rows = [step.shape for step in steps if len(step.shape) == 3]
    token_counts = {shape[1] if shape[0] == batch else shape[0] for shape in rows if batch in shape[:2]}
    found = []
    for step in steps:
        layout = _layout_or_none(step, inputs, model)
        if layout is None or step.pooled or math.prod(layout.map) < 2:
            continue
        if layout.kind == "channels_first":
            channels = step.shape[1]
            # [N, heads, T, T] and the like, which have positions of another kind
            inner = step.shape[2] in token_counts or (channels in token_counts and not layout.plausible)
        else:
            channels = step.shape[-1]
            # Of a transformer's block, the residual stream and its normalisations are features of a position.
            inner = not (step.module._modules or "norm" in type(step.module).__name__.lower())
        class_map = channels == classes and (segments or step.turn >= last_weight)
        found.append(_Candidate(step, layout, doubts=2 * inner + class_map))
    return sorted(found, key=lambda candidate: -candidate.doubts)


def _of_the_image(model: nn.Module, inputs: Inputs, candidates: list[_Candidate]) -> list[_Candidate]:
    """Those whose maps change with the image, for a model of several inputs: the tokens of a text are none of its map."""
    if sum(isinstance(value, Tensor) for value in (*inputs.args, *inputs.kwargs.values())) < 2 or not candidates:
        return candidates
    with Tap(model, [candidate.step.module for candidate in candidates], graph=False) as tap:
        tap.run(inputs)
        before = tap.activations
        tap.run(inputs.with_image(inputs.image.detach().flip(-1) * 0.5 + 1))
        changed = [not torch.equal(*pair) for pair in zip(before, tap.activations, strict=True)]
    return [candidate for candidate, differs in zip(candidates, changed, strict=True) if differs] or candidates


def _layout_or_none(step: _Step, inputs: Inputs, model: nn.Module) -> Layout | None:
    try:
        return layout_of(step.shape, inputs.image.shape, model)
    except ValueError:
        return None


def _gradients(model: nn.Module, inputs: Inputs, layers: Sequence[nn.Module]) -> list[Tensor | None]:
    """Gradients of the top score with respect to each layer's output; None where there is no connection."""
    with Tap(model, layers) as tap:
        try:
            scores = scores_in(tap.run(inputs))
        except ValueError:
            return [None] * len(layers)
        assert scores is not None
        return tap.gradients(scores.reshape(len(scores), -1).amax(1).sum(), missing_ok=True)
