"""Where a layer's positions are, by evidence: a change planted in one place of one image, and what answers to it.

    image [1, 3, H, W], changed at y = 0.25 H, x = 0.7 W
    layer [1, 64, 64, 4]  |change| summed over all dimensions but one:
        dimension 1   _-_-__-_--_   no order: channels
        dimension 2   __/\\________   a peak at 0.25: follows y
        dimension 3   ______/\\____   a peak at 0.7: follows x

Sizes only tell which reading is tried first. One planted change is mostly enough. Where several readings explain it,
further ones are planted elsewhere, and how the answers move counts: what a channel always does cancels out.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .bounded import Bounded
from .evidence import Answer, agreement, movement, sharpness
from .inputs import Inputs
from .layers import call_of
from .layouts import Layout, has_channels_second, layout_of, size_of
from .placement import ELSEWHERE, is_off, sides, words
from .planting import TURNS, PassFailed, Planted, usual_axes, where
from .readings import readings_of
from .rows import course_of, line_of, other_grid

__all__ = ["Planted", "Reading", "image_axes", "known", "read", "read_layer"]

_SURE = 0.5  # agreement of a reading with one planted change that needs no second
_SURE_OF_A_LINE = 0.8  # the same along a line, which channels may look like by chance
_FAIR = 0.3  # agreement and movement of several changes, halved
_LEAST = 0.3  # of it the agreement alone
_CONTESTED = 0.65  # in place of _FAIR, where another reading comes close, or positions are few
_AGAINST = 0.75  # and where sizes speak for another reading
_AGAINST_AGREED = 0.58  # of it the agreement alone: of hundreds of readings some move as the changes do by chance
_SHORT = 4  # sides of so few positions, among which much happens by chance
_MANY = 12  # positions: the answer of fewer to one change may have any shape by chance
_NOTHING = 1e-3  # of the strongest answer: rounding, where a change does not reach the layer
_MARGIN = 0.2  # by how much a reading must agree better than its rivals
_LOOKED_AT = 12  # readings whose answers move best


class Reading(NamedTuple):
    """What the planted changes told of a layer."""

    layout: Layout | None  # None: no reading explains what was seen
    doubt: str | None = None  # what was seen, where that does not prove the layout
    place: str | None = None  # what was seen, where the map does not lie over the image, all of it, as it came


_readings: weakref.WeakKeyDictionary[nn.Module, weakref.WeakKeyDictionary[nn.Module, dict[Any, Reading]]] = (
    weakref.WeakKeyDictionary()
)
_axes: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[int, ...]]] = weakref.WeakKeyDictionary()


def read(
    model: nn.Module,
    layer: nn.Module,
    name: str,
    activations: Tensor,
    source: Planted,
    images: int | None = None,
    same_mode: bool = True,
) -> Reading:
    """The layout of ``layer``'s output, by changes planted in the first image; remembered for each shape.

    Args:
        model: the model, as :class:`~camfast.model.tap.Tap` takes it.
        layer: one of its modules.
        name: the layer's name, for the words about a doubt.
        activations: its output for the images of ``source``, or for a batch that starts with them, without a graph.
        source: runs the changed copies.
        images: how many images ``activations`` are of; None for those of ``source``.
        same_mode: whether ``activations`` are of evaluation mode, as those of the changed copies are.

    Returns:
        The layout, and a doubt in words where the evidence does not prove it.
    """
    image = source.inputs.image
    images = image.shape[0] if images is None else images
    before = known(model, layer, name, activations, source.inputs, images)
    if before is not None:
        return _noted(model, image, before)
    seen = activations if same_mode else source.activations(layer, name, None)
    reading, each = _read(model, layer, name, seen, source)
    if activations.isfinite().all():
        _remembered(model, layer)[_of_what(name, source.inputs), tuple(image.shape[1:]), each] = reading
    return _noted(model, image, reading)


def read_layer(
    model: nn.Module, layer: nn.Module, name: str, activations: Tensor, inputs: Inputs, eval_mode: bool = True
) -> Reading:
    """As :func:`read`, for a layer's output in a pass of a whole batch.

    Args:
        model: the model.
        layer: one of its modules.
        name: the layer's name.
        activations: its output for ``inputs``, without a graph.
        inputs: the arguments of the pass.
        eval_mode: whether the pass was in evaluation mode: another gives other activations, which say nothing here.
    """
    before = known(model, layer, name, activations, inputs, inputs.batch)
    if before is not None:
        return _noted(model, inputs.image, before)
    try:
        return read(model, layer, name, activations, Planted(model, inputs.first()), inputs.batch, eval_mode)
    except PassFailed:
        pass
    try:  # exported for one batch size, perhaps
        return read(model, layer, name, activations, Planted(model, inputs), inputs.batch, eval_mode)
    except PassFailed as error:
        what = f"a pass of a changed image raised {type(error.__cause__).__name__}, so that nothing was seen of layer {name!r}"
        return Reading(_hint(tuple(activations.shape), inputs.image, model), what)


def _noted(model: nn.Module, image: Tensor, reading: Reading) -> Reading:
    """``reading``, with a note of the image's dimensions that it follows: the last layer that was read counts."""
    if reading.layout is not None:
        axes, key = _axes.setdefault(model, Bounded()), (tuple(image.shape[1:]), len(reading.layout.map))
        if reading.layout.along is None:
            axes.pop(key, None)
        else:
            axes[key] = reading.layout.along
    return reading


def _remembered(model: nn.Module, layer: nn.Module) -> dict[Any, Reading]:
    """What was read of ``layer``: by call and image, the shape of that image, and of the output for it."""
    return _readings.setdefault(model, weakref.WeakKeyDictionary()).setdefault(layer, Bounded(64))


def _of_what(name: str, inputs: Inputs) -> tuple[Any, int]:
    """Which call of a layer, and which of several images: changes planted in one do not show in what sees another."""
    place = next((place for place, image in enumerate(inputs.images()) if image is inputs.image), 0)
    return call_of(name)[1], place


def known(
    model: nn.Module, layer: nn.Module, name: str, activations: Tensor, inputs: Inputs, images: int
) -> Reading | None:
    """What an earlier reading told of the layout of ``activations`` of ``images`` images; None where there was none."""
    remembered = _remembered(model, layer)
    what, size, shape = _of_what(name, inputs), tuple(inputs.image.shape[1:]), tuple(activations.shape)
    for axis in (0, 1):  # where the batch may be
        if shape[axis] % images or (axis and activations.ndim != 3):
            continue
        each = (*shape[:axis], shape[axis] // images, *shape[axis + 1 :])
        reading = remembered.get((what, size, each))
        if reading is not None and (reading.layout is None or reading.layout.order[0] == axis):
            return reading
        for (earlier, other, before), reading in list(remembered.items()):
            # Of another size: where dimensions are is a matter of code.
            alike = earlier == what and len(other) == len(size) and reading.doubt is None and reading.place is None
            if alike and (scaled := _scaled(reading, before, each)):
                return scaled
    return None


def _scaled(reading: Reading, before: tuple[int, ...], each: tuple[int, ...]) -> Reading | None:
    """A reading of an output of shape ``before`` for another shape, ``each``, where the order of dimensions is all."""
    layout = reading.layout
    if layout is None or layout.instances is not None or len(before) != len(each):
        return None
    order = layout.order
    if layout.prefix or len(order) - 2 != len(layout.map) or any(before[axis] != each[axis] for axis in order[:2]):
        return None
    return Reading(layout._replace(map=tuple(each[axis] for axis in order[2:])))


def image_axes(model: nn.Module, image: Sequence[int], rank: int) -> tuple[int, ...] | None:
    """The dimensions of an image tensor that a map of ``rank`` dimensions follows, where a layer's reading told."""
    return _axes.get(model, {}).get((tuple(image[1:]), rank))


def _read(
    model: nn.Module, layer: nn.Module, name: str, activations: Tensor, source: Planted
) -> tuple[Reading, tuple[int, ...]]:
    """The reading, and the shape of the layer's output for one image."""
    image = source.inputs.image
    answers: list[Answer] = []
    rivals: list[Layout] = []
    each = tuple(activations.shape)
    first: Layout | None = None
    clear = False
    for turn in range(TURNS):
        after = source.activations(layer, name, turn)
        batch = _batch_axis(activations, after, image.shape[0])
        each = (*after.shape[:batch], after.shape[batch] // image.shape[0], *after.shape[batch + 1 :])
        before = _first(activations, after)
        if before is None:
            return Reading(None), tuple(activations.shape)
        change = (after.double() - before.double()).abs().nan_to_num(0, 0, 0).narrow(batch, 0, each[batch]).cpu()
        change[change < 1e-4 * change.max()] = 0  # what differs between batches of another size
        first = _hint(each, image[:1], model)
        second = has_channels_second(layer, each)
        if second and first is not None and first.order[1] != 1:
            first = Layout("channels_first", tuple(each[2:]))
        if not change.any():
            continue
        answers.append(Answer(change, where(image.shape, turn, model)[1]))
        if len(answers) == 1:
            rivals = list(readings_of(each, batch, image.shape, model, first))
            if second:
                rivals = [rival for rival in rivals if rival.order[1] == 1]
            clear = first is not None and _is_clear(first, rivals, answers)
            if clear and turn == 0 and first is not None and not is_off(first, answers[0]):
                return Reading(first), each
    if not answers:
        if not activations.any() or first is None:
            return Reading(first), each
        return Reading(first, f"layer {name!r} did not change when the image was changed in {TURNS} places"), each
    most = max(float(answer.change.max()) for answer in answers)
    answers = [answer for answer in answers if float(answer.change.max()) > _NOTHING * most]
    moved = {rival: movement(rival, answers) for rival in rivals}
    if clear and first is not None and agreement(first, answers) >= 0:
        found: Reading | None = Reading(first)  # one answer was for it, none is against it
    else:
        found = _decided(first, moved, answers, image.shape)
    if found is not None and found.layout is not None:
        return found._replace(place=_place(name, found.layout, answers)), each
    if first is None or agreement(first, answers) <= -_LEAST:
        elsewhere = None if first is None else _place(name, first, answers) or ELSEWHERE.format(name=name)
        return Reading(None, place=elsewhere), each
    if moved[first] >= max(moved.values()) - _MARGIN / 2 and _sizes_tell(first, rivals, image.shape, model):
        return Reading(first), each
    what = f"changes planted in the image did not show where the positions of layer {name!r} are"
    return Reading(first, what), each


def _place(name: str, layout: Layout, answers: Sequence[Answer]) -> str | None:
    """What is to be said of where over the image the map lies; None where it lies all over it."""
    found = sides(layout, answers)
    return words(name, found, len(answers[0].places)) if found else None


def _sizes_tell(first: Layout, rivals: Sequence[Layout], image: Sequence[int], model: nn.Module) -> bool:
    """Whether a picture's proportions are those of a map read as ``first``, and no other dimension can hold its channels.

    Where every position sees the whole image, as in the last maps of a deep network for small images, nothing else can
    tell: more channels than the image has rows or columns are no positions.
    """
    if len(first.map) < 2 or len(size_of(image, model)) != len(first.map):
        return False
    return first.plausible and first.kind == "channels_first" and all(rival.order[1] == 1 for rival in rivals)


def _is_clear(first: Layout, rivals: Sequence[Layout], answers: Sequence[Answer]) -> bool:
    """Whether one answer is for the reading that sizes speak for, and for no other."""
    if _is_short(first) or math.prod(first.map) < _MANY:
        return False
    own = agreement(first, answers)
    bound = own - _MARGIN
    return own >= (_SURE if len(first.map) > 1 else _SURE_OF_A_LINE) and all(
        rival is first or agreement(rival, answers, bound) <= bound for rival in rivals
    )


def _decided(
    first: Layout | None, moved: Mapping[Layout, float], answers: Sequence[Answer], image: Sequence[int]
) -> Reading | None:
    """The reading that all answers together are for; None where it is not clear.

    Args:
        first: what sizes speak for.
        moved: every reading, and how its answers move (see :func:`~camfast.model.evidence.movement`).
        answers: of the layer.
        image: the shape of the image.
    """
    if not moved:
        return None
    moving = sorted(moved, key=moved.__getitem__, reverse=True)[:_LOOKED_AT]
    agreed = {rival: agreement(rival, answers) for rival in moving}
    scores = {rival: (moved[rival] + agreed[rival]) / 2 for rival in moving}
    best = max(scores.values())
    close = [rival for rival, score in scores.items() if score > best - _MARGIN / 2]
    contested = len(close) > 1
    if contested:
        # A change in some of an input's features is found again in both dimensions, where layers pass on what they
        # got. Positions keep to themselves, features are mixed.
        sharp = [sharpness(rival, answers) for rival in close]
        close = [rival for rival, found in zip(close, sharp, strict=True) if found > max(sharp) - _MARGIN / 2]
    lines = [rival for rival in close if len(rival.order) == 3 and max(rival.map) == math.prod(rival.map)]
    doubt = None
    if lines and len(lines) == len(close):  # one and the same line, with tokens before it or without
        courses = {course_of(line, len(image)) for line in lines}
        if first is not None and len(first.map) == 1 and courses == {course_of(first, len(image))} and first.prefix:
            close = [first]  # what a patch embedding tells
        else:
            line, doubt = line_of(lines, moved, answers, image)
            close = [line]
    if first is not None and first in close:
        # Channels may move as the changes do by chance, and lie less well where these were planted than the positions do.
        lies = agreed[first] if first in agreed else agreement(first, answers)
        outdone = any(agreed[rival] > lies + _MARGIN / 2 for rival in moving if rival.order[1] != first.order[1])
        little = contested or outdone or _is_short(first) or math.prod(first.map) < _MANY
        if scores.get(first, best) >= (_CONTESTED if little else _FAIR) and lies >= _LEAST:
            return Reading(first, doubt or other_grid(first, answers, image))
    # Against what the sizes say it takes more: a few changes may look like anything, if there are many ways to look.
    if len(close) != 1:
        return None
    if best < _AGAINST or agreement(close[0], answers) < _AGAINST_AGREED:
        return None
    return Reading(close[0], doubt or other_grid(close[0], answers, image))


def _is_short(layout: Layout) -> bool:
    """Whether a side of the map is so short that changes may seem to move along it by chance."""
    return min((side for side in layout.map if side > 1), default=1) <= _SHORT


def _first(activations: Tensor, after: Tensor) -> Tensor | None:
    """The part of ``activations`` of a batch that belongs to the images that gave ``after``."""
    if activations.shape == after.shape:
        return activations
    if activations.ndim != after.ndim:
        return None
    differ = [axis for axis, (a, b) in enumerate(zip(activations.shape, after.shape, strict=True)) if a != b]
    if len(differ) != 1 or activations.shape[differ[0]] % after.shape[differ[0]]:
        return None
    return activations.narrow(differ[0], 0, after.shape[differ[0]])


def _batch_axis(activations: Tensor, after: Tensor, images: int) -> int:
    """The dimension that holds the images."""
    for axis, (a, b) in enumerate(zip(activations.shape, after.shape, strict=True)):
        if a != b:
            return axis
    if after.shape[0] == images or images != 1:
        return 0
    return 1 if after.ndim == 3 and after.shape[1] == 1 else 0


def _hint(shape: Sequence[int], image: Tensor, model: nn.Module) -> Layout | None:
    """What the sizes speak for."""
    try:
        layout = layout_of(shape, image.shape, model)
    except ValueError:  # tokens that fit several grids
        return None
    axes = usual_axes(image.shape, model)
    if layout is None or layout.along is not None or len(layout.map) != len(axes) or axes[-1] == image.ndim - 1:
        return layout
    return layout._replace(along=axes)
