"""The layer to explain where none is named: the last one with a spatial map that the target depends on."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import NothingFound
from .bounded import Bounded
from .inputs import Inputs
from .layers import refuse_exported
from .layouts import Layout, layout_of
from .outputs import detections_in, found_nothing, replace_all, scores_in, tensors_in
from .placement import PREPARED
from .probe import Planted, read
from .restored import Restored
from .tap import Tap, hookable, is_map
from .untouched import quiet

__all__ = [
    "Candidate",
    "Objective",
    "Step",
    "candidate_maps",
    "find_layers",
    "is_reached",
    "record",
    "remembered_layers",
]

Objective = Callable[[Any], Tensor]
"""From what the model returned for one image, the scalar whose gradient is asked for."""


_AT_ONCE = 8  # candidates whose gradients are taken in one pass
_DOUBTFUL = 3  # candidates in doubt of their positions, each of several passes, after which the last of them is taken


_ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


@dataclass(eq=False)
class Step:
    """One distinct output of one pass, by the outermost module that returned it."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    pooled: bool  # an adaptive pooling's output: what follows the map, not the map
    turn: int  # how many modules had returned before
    returned: bool = False  # by the model itself: what it says, not what it saw
    inner: list[tuple[str, nn.Module]] = field(
        default_factory=list
    )  # those inside that returned it first, innermost first


class Candidate(NamedTuple):
    step: Step
    layout: Layout
    doubts: int


# Layers found before, by model, image shape and kind of target: repeated calls need no second search.
_found: weakref.WeakKeyDictionary[nn.Module, dict[Any, weakref.ref[nn.Module]]] = weakref.WeakKeyDictionary()


def find_layers(
    model: nn.Module,
    inputs: Inputs,
    gradients: bool = True,
    objective: Objective | None = None,
    kind: Any = None,
) -> list[str]:
    """The name of the last layer of ``model`` with a spatial map that the target depends on, as a list of one.

    One pass over the first image notes what every module returns. Pooled maps are left out, and so are the class maps
    that a segmentation network or a convolutional head ends in. A second pass takes gradients of the objective: a layer
    must receive some, and a transformer's must receive one at most positions, not at the class token alone. A third
    tells by a planted change where the layer's positions are (see :mod:`camfast.model.probe`); a layer that has none
    is passed over.

    Args:
        model: the model, in any mode.
        inputs: its arguments.
        gradients: False for methods that take none: a head that cannot be differentiated does not matter.
        objective: the scalar to explain, of the model's output for the first image; None for its top score.
        kind: stands for the objective in what is remembered: equal for targets that read the same part of the output.

    Returns:
        A list of one name, which :func:`remembered_layers` gives from now on.

    Raises:
        ValueError: the model has no such layer.
    """
    refuse_exported(model)
    name, layer = _search(model, inputs, gradients, objective)
    _found.setdefault(model, Bounded())[_key(inputs, gradients, kind)] = weakref.ref(layer)
    return [name]


def remembered_layers(model: nn.Module, inputs: Inputs, gradients: bool = True, kind: Any = None) -> list[str]:
    """What :func:`find_layers` found before for images of this shape and targets of this kind; empty if nothing."""
    known = _found.get(model, {}).get(_key(inputs, gradients, kind))
    layer = known() if known is not None else None
    return [] if layer is None else [name for name, module in model.named_modules() if module is layer]


def _key(inputs: Inputs, gradients: bool, kind: Any) -> Any:
    return (*inputs.image.shape[1:], gradients, kind)


def _search(
    model: nn.Module, batch: Inputs, differentiable: bool, objective: Objective | None
) -> tuple[str, nn.Module]:
    index, inputs, (steps, output, last_weight) = _recorded(model, batch)
    target, read_by_it = _objective(objective if index == 0 else None, output)  # the objective is the first image's
    candidates = _of_the_image(model, inputs, candidate_maps(model, inputs, steps, read_by_it, last_weight))
    silent: Step | None = None
    elsewhere: str | None = None
    doubtful: list[Step] = []
    planted = Planted(model, inputs)
    # From the last one backwards: it alone, which is mostly enough, then a few at a time, so that graphs stay short.
    bounds = [len(candidates), *range(len(candidates) - 1, 0, -_AT_ONCE), 0] if candidates else []
    for end, start in itertools.pairwise(bounds):
        group = candidates[start:end]
        found = _gradients(model, inputs, [candidate.step.module for candidate in group], target)
        for (step, layout, _), (activations, gradient) in reversed(list(zip(group, found, strict=True))):
            # A container may return the map beside what it made of it, as Hugging Face's do: the scores do not depend
            # on the map it returns, but on that of a part inside.
            while gradient is None and step.inner:
                step.name, step.module = step.inner.pop()
                ((activations, gradient),) = _gradients(model, inputs, [step.module], target)
            # A module that ran several times, on maps of different sizes, is tapped at its last call.
            if gradient is None or activations is None or tuple(gradient.shape) != step.shape:
                continue
            if not gradient.any():
                silent = silent or step
                continue
            if not is_reached(layout, gradient):
                continue
            reading = read(model, step.module, step.name, activations, planted)
            if reading.layout is None:
                elsewhere = elsewhere or reading.place
                continue
            if not is_reached(reading.layout, gradient):
                continue
            if reading.doubt is None:
                return step.name, step.module
            doubtful.append(step)
            if len(doubtful) == _DOUBTFUL:
                return doubtful[0].name, doubtful[0].module
    if doubtful:
        return doubtful[0].name, doubtful[0].module
    if silent is not None and target is objective and detections_in(output, 1) is not None:
        return _search(model, batch, differentiable, None)  # a box that is not there in this pass: as for one that is
    if silent is None and candidates and not differentiable:
        return candidates[-1].step.name, candidates[-1].step.module
    if silent is None and elsewhere is not None:
        raise ValueError(f"{elsewhere}; {PREPARED}, or name a layer by layers= and its dimensions by layout=")
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


def _recorded(model: nn.Module, batch: Inputs) -> tuple[int, Inputs, tuple[list[Step], Any, int]]:
    """The first image alone and the record of its pass; of a detector the first image in which it finds something.

    Raises :class:`camfast.errors.NothingFound` where there is none.
    """
    try:
        for index in range(batch.batch):
            inputs = batch.one(index)
            pass_ = record(model, inputs)
            if not found_nothing(pass_[1], 1):
                return index, inputs, pass_
    except Exception:
        if batch.batch == 1:
            raise
        return 0, batch, record(model, batch)  # exported for this batch size, perhaps
    raise NothingFound


def is_reached(layout: Layout, gradient: Tensor) -> bool:
    """Whether a layer with a map gets a gradient: of tokens at most positions, not at a class token or the last step."""
    if math.prod(layout.map) < 2:
        return False
    reached = layout.view(gradient).any(1).float().mean().item()
    return reached > (0 if layout.kind == "channels_first" else 0.5)


def _objective(wanted: Objective | None, output: Any) -> tuple[Objective, Tensor | None]:
    """What to differentiate, and which tensor of the output it reads: tried on what the model returned.

    Where the target does not fit the first image, a detector that found nothing in it, the top score takes its place;
    what is wrong with a target is said by the call that follows.
    """
    reason: Exception | None = None
    for objective in (wanted, _top_score):
        if objective is None:
            continue
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        try:
            with torch.enable_grad():
                value = objective(replace_all(output, Tensor.is_floating_point, leaf))
                gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        except Exception as error:
            reason = reason or error
            continue
        read_by_it = [t for t, g in zip(leaves, gradients, strict=True) if g is not None and g.any()]
        return objective, read_by_it[0].detach() if read_by_it else scores_in(output)
    if reason is not None and scores_in(output) is None:
        raise reason  # neither the target nor a top score can be read
    return _top_score, scores_in(output)


def _top_score(output: Any) -> Tensor:
    scores = scores_in(output)
    if scores is None:
        raise ValueError("expected scores, got none")
    return scores.reshape(len(scores), -1).amax(1).sum()


def record(model: nn.Module, inputs: Inputs) -> tuple[list[Step], Any, int]:
    """Every distinct map returned in one pass, the model's output, and the turn of the last module with weights.

    Tensors are told apart by identity and version without being kept, so that the pass takes no more memory than usual.
    """
    steps: list[Step] = []
    latest: dict[int, tuple[weakref.ref[Tensor], int, Step]] = {}  # by id: the tensor, its version, its step
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
                # An activation that many blocks share has the name of the first of them.
                if step.name.startswith(name + ".") or any(part is step.module for part in module.modules()):
                    step.inner.append((step.name, step.module))
                    step.name, step.module = name, module
                return
            steps.remove(step)  # overwritten in place
            pooled = pooled or step.pooled
        step = Step(name, module, tuple(tensor.shape), pooled, turn)
        steps.append(step)
        latest[id(tensor)] = (weakref.ref(tensor), version, step)

    with Restored() as restored:
        for name, module in hookable(model):
            if name:
                restored.hook(module, lambda module, args, output, name=name: note(name, module, output))
        with quiet(model), torch.no_grad():
            cut = inputs.cut()
            output = model(*cut.args, **cut.kwargs)
    for tensor in tensors_in(output):
        reference, _, last = latest.get(id(tensor), (None, 0, None))
        if last is not None and reference is not None and reference() is tensor:
            last.returned = True
    return steps, output, last_weight


def candidate_maps(
    model: nn.Module, inputs: Inputs, steps: list[Step], scores: Tensor | None, last_weight: int
) -> list[Candidate]:
    """The maps among ``steps``, those that are rather something else first, the likeliest ones last."""
    classes = scores.shape[1] if scores is not None and scores.ndim > 1 else None
    segments = scores is not None and scores.ndim > 2
    batch = inputs.batch
    rows = [step.shape for step in steps if len(step.shape) == 3]
    token_counts = {shape[1] if shape[0] == batch else shape[0] for shape in rows if batch in shape[:2]}
    folded_counts = {shape[1] for shape in rows if shape[0] > batch}
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
            inner = not (_parts(step.module) or "norm" in type(step.module).__name__.lower())
        folded = step.shape[0] > batch and layout.kind == "channels_first"  # frames and instances as images
        if folded and len(step.shape) == 4 and step.shape[2] == step.shape[3] and step.shape[2] in folded_counts:
            continue  # the attention of folded frames
        class_map = channels == classes and (segments or step.turn >= last_weight)
        found.append(Candidate(step, layout, doubts=2 * inner + class_map + (class_map and step.returned)))
    return sorted(found, key=lambda candidate: -candidate.doubts)


def _of_the_image(model: nn.Module, inputs: Inputs, candidates: list[Candidate]) -> list[Candidate]:
    """Those whose maps change with the image, for a model of several inputs: the tokens of a text are none of its map."""
    if sum(isinstance(value, Tensor) for value in (*inputs.args, *inputs.kwargs.values())) < 2 or not candidates:
        return candidates
    with Tap(model, [candidate.step.module for candidate in candidates], graph=False) as tap:
        tap.run(inputs)
        before = tap.activations
        tap.run(inputs.with_image(inputs.image.detach().flip(-1) * 0.5 + 1))
        changed = [not torch.equal(*pair) for pair in zip(before, tap.activations, strict=True)]
    return [candidate for candidate, differs in zip(candidates, changed, strict=True) if differs] or candidates


def _parts(module: nn.Module) -> list[nn.Module]:
    """What a module is made of, adapters and parametrizations aside: a linear layer with LoRA is a linear layer."""
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        return _parts(base)
    added = ("lora", "adapter", "parametrizations")
    names = list(module._modules)
    kept = [name for name in names if not name.lower().startswith(added)]
    if len(kept) == 1 < len(names) and module._modules[kept[0]] is not None:
        return _parts(module._modules[kept[0]])  # type: ignore[arg-type]
    return [child for name in kept if (child := module._modules[name]) is not None]


def _layout_or_none(step: Step, inputs: Inputs, model: nn.Module) -> Layout | None:
    try:
        return layout_of(step.shape, inputs.image.shape, model)
    except ValueError:
        return None


def _gradients(
    model: nn.Module, inputs: Inputs, layers: Sequence[nn.Module], objective: Objective
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Each layer's output, and the objective's gradient with respect to it: None where there is no connection."""
    nothing: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(layers)
    with Tap(model, layers) as tap:
        try:
            output = tap.run(inputs)
            value = objective(output)
        except (ValueError, TypeError):  # the target reads a part of the output that these layers do not reach
            return nothing
        return list(zip(tap.activations, tap.gradients(value, missing_ok=True), strict=True))
