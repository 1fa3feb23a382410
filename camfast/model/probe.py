"""Where a layer's positions are, by evidence: a change planted in one place of one image, and what answers to it.

    image [1, 3, H, W], changed at y = 0.25 H, x = 0.7 W
    layer [1, 64, 64, 4]  |change| summed over all dimensions but one:
        dimension 1   _-_-__-_--_   no order: channels
        dimension 2   __/\\________   a peak at 0.25: follows y
        dimension 3   ______/\\____   a peak at 0.7: follows x

Sizes only tell which reading is tried first. One planted change is mostly enough. Where several readings explain it, a
second and a third are planted elsewhere, and the difference between the answers counts: what a channel always does
cancels out.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .evidence import WIDTH, Answer, agreement, sharpness
from .inputs import Inputs
from .layers import call_of
from .layouts import Kind, Layout, grids_of, layout_of, size_of
from .tap import Tap

__all__ = ["Planted", "Reading", "image_axes", "read", "read_layer"]

# Where a change is planted, in shares of each of the image's dimensions, the last one first. Late in the last one, so
# that a recurrent network, which answers from there on, answers in a small part.
_PLACES = ((0.7, 0.25, 0.55, 0.35), (0.25, 0.6, 0.15, 0.8), (0.5, 0.85, 0.8, 0.15))
_WHOLE = 4  # dimensions of so few entries may be channels: they change as a whole
_SURE = 0.5  # agreement of a reading with one planted change that needs no second
_FAIR = 0.3  # the same of several changes
_AGAINST = 0.6  # the same of several changes, where sizes speak for another reading
_MARGIN = 0.2  # by how much a reading must agree better than its rivals


class Reading(NamedTuple):
    """What the planted changes told of a layer."""

    layout: Layout | None  # None: no reading explains what was seen
    doubt: str | None = None  # what was seen, where that does not prove the layout


_readings: weakref.WeakKeyDictionary[nn.Module, weakref.WeakKeyDictionary[nn.Module, dict[Any, Reading]]] = (
    weakref.WeakKeyDictionary()
)
_axes: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[int, ...]]] = weakref.WeakKeyDictionary()


class Planted:
    """Passes of changed copies of one image. ``inputs`` hold one image, or all of a model of a fixed batch size."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs

    def activations(self, layer: nn.Module, name: str, turn: int | None) -> Tensor:
        """The layer's output for the image with the ``turn``-th change; for None of the image itself.

        ``name`` tells the call, of a layer that runs several times.
        """
        image = self.inputs.image.detach()
        if turn is not None:
            image = planted(image, turn, self.model)[0]
        try:
            with Tap(self.model, [layer], names=[name], graph=False) as tap:
                tap.run(self.inputs.with_image(image))
                return tap.activations[0]
        except Exception as error:
            raise _PassFailed from error


class _PassFailed(Exception):
    """The model does not take the changed image."""


def planted(image: Tensor, turn: int, model: nn.Module) -> tuple[Tensor, tuple[float | None, ...]]:
    """``image`` with a change in the first one's ``turn``-th place, and where that is (see :class:`Answer`)."""
    image = image.clone()
    box: list[slice] = [slice(0, 1)]
    places: list[float | None] = [None]
    rank = image.ndim
    may_be_channels = (1, rank - 1) if rank < 5 else {1, 2} - set(_usual_axes(image.shape, model))
    for axis, length in enumerate(image.shape[1:], 1):
        place = _PLACES[turn][(rank - 1 - axis) % len(_PLACES[turn])]
        if length == 1 or (length <= _WHOLE and axis in may_be_channels and rank > 3):
            box.append(slice(None))
            places.append(None)
            continue
        start = min(length - 1, max(0, math.floor(length * (place - WIDTH / 2))))
        end = max(start + 1, min(length, math.ceil(length * (place + WIDTH / 2))))
        box.append(slice(start, end))
        places.append((start + end) / 2 / length)
    part = image[tuple(box)]
    generator = torch.Generator().manual_seed(turn)
    if image.is_floating_point():
        finite = image[:1].float().nan_to_num(0, 0, 0)
        # Small, and of mean zero: what normalises over the whole map should hardly feel it, what is local answers.
        share = 0.3 if image.dtype.itemsize > 2 else 2.0
        scale = share * (float(finite.std(correction=0)) or float(finite.abs().max()) or 1.0)
        noise = torch.randn(part.shape, generator=generator)
        image[tuple(box)] = part + (noise * scale).to(part)
    else:
        low, high = int(image.min()), int(image.max())
        noise = torch.randint(0, max(2, high - low + 1), part.shape, generator=generator)
        image[tuple(box)] = ((part.long() - low + noise.to(part.device)) % max(2, high - low + 1) + low).to(part.dtype)
    return image, tuple(places)


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
    reading = _known(model, layer, name, activations, source.inputs, images)
    if reading is not None:
        return reading
    seen = activations if same_mode else source.activations(layer, name, None)
    reading, each = _read(model, layer, name, seen, source)
    if activations.isfinite().all():
        _remembered(model, layer)[_of_what(name, source.inputs), tuple(image.shape[1:]), each] = reading
    if reading.layout is not None and reading.layout.along is not None:
        axes = _axes.setdefault(model, {})
        axes[tuple(image.shape[1:]), len(reading.layout.map)] = reading.layout.along
    return reading


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
    known = _known(model, layer, name, activations, inputs, inputs.batch)
    if known is not None:
        return known
    try:
        return read(model, layer, name, activations, Planted(model, inputs.first()), inputs.batch, eval_mode)
    except _PassFailed:
        pass
    try:  # exported for one batch size, perhaps
        return read(model, layer, name, activations, Planted(model, inputs), inputs.batch, eval_mode)
    except _PassFailed as error:
        what = f"a pass of a changed image raised {type(error.__cause__).__name__}, so that nothing was seen of layer {name!r}"
        return Reading(_hint(tuple(activations.shape), inputs.image, model), what)


def _remembered(model: nn.Module, layer: nn.Module) -> dict[Any, Reading]:
    """What was read of ``layer``: by call and image, the shape of that image, and of the output for it."""
    return _readings.setdefault(model, weakref.WeakKeyDictionary()).setdefault(layer, {})


def _of_what(name: str, inputs: Inputs) -> tuple[Any, int]:
    """Which call of a layer, and which of several images: changes planted in one do not show in what sees another."""
    place = next((place for place, image in enumerate(inputs.images()) if image is inputs.image), 0)
    return call_of(name)[1], place


def _known(
    model: nn.Module, layer: nn.Module, name: str, activations: Tensor, inputs: Inputs, images: int
) -> Reading | None:
    """What is known of the layout of ``activations`` of ``images`` images from an earlier reading."""
    known = _remembered(model, layer)
    what, size, shape = _of_what(name, inputs), tuple(inputs.image.shape[1:]), tuple(activations.shape)
    for axis in (0, 1):  # where the batch may be
        if shape[axis] % images or (axis and activations.ndim != 3):
            continue
        each = (*shape[:axis], shape[axis] // images, *shape[axis + 1 :])
        reading = known.get((what, size, each))
        if reading is not None and (reading.layout is None or reading.layout.order[0] == axis):
            return reading
        for (earlier, other, before), reading in known.items():
            # Of another size: where dimensions are is a matter of code.
            alike = earlier == what and len(other) == len(size) and reading.doubt is None
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
    each = tuple(activations.shape)
    first: Layout | None = None
    for turn in range(len(_PLACES)):
        after = source.activations(layer, name, turn)
        batch = _batch_axis(activations, after, image.shape[0])
        each = (*after.shape[:batch], after.shape[batch] // image.shape[0], *after.shape[batch + 1 :])
        before = _first(activations, after)
        if before is None:
            return Reading(None), tuple(activations.shape)
        change = (after.double() - before.double()).abs().nan_to_num(0, 0, 0).narrow(batch, 0, each[batch]).cpu()
        change[change < 1e-4 * change.max()] = 0  # what differs between batches of another size
        answers.append(Answer(change, planted(image[:1], turn, model)[1]))
        first = _hint(each, image[:1], model)
        told = [answer for answer in answers if answer.change.any()]
        if not change.any():
            continue
        rivals = list(_readings_of(each, batch, image.shape, model, first))
        scored = sorted(((agreement(rival, told), -i) for i, rival in enumerate(rivals)), reverse=True)
        found = _decided(scored, rivals, first, told)
        if found is not None:
            return Reading(found), each
    told = [answer for answer in answers if answer.change.any()]
    if not told:
        if not activations.any() or first is None:
            return Reading(first), each
        return Reading(first, f"layer {name!r} did not change when the image was changed in three places"), each
    if first is not None and agreement(first, told) > -_FAIR:
        return Reading(
            first, f"changes planted in the image did not show where the positions of layer {name!r} are"
        ), each
    return Reading(None), each


def _decided(
    scored: list[tuple[float, int]], rivals: list[Layout], first: Layout | None, answers: list[Answer]
) -> Layout | None:
    """The reading that the evidence is for; None where it is not clear yet."""
    if not scored:
        return None
    enough = _SURE if len(answers) == 1 else _FAIR
    best = scored[0][0]
    if best < enough:
        return None
    close = [rivals[-i] for score, i in scored if score > best - _MARGIN]
    if len(close) > 1:
        # A change in some of an input's features is found again in both dimensions, where layers pass on what they
        # got. Positions keep to themselves, features are mixed.
        sharp = sorted(((sharpness(rival, answers), -i) for i, rival in enumerate(close)), reverse=True)
        close = [close[-i] for sharpness, i in sharp if sharpness > sharp[0][0] - _MARGIN / 2]
    if first in close:
        return first
    # Against what the sizes say it takes more: one change may look like anything, if there are many ways to look.
    return close[0] if len(close) == 1 and len(answers) > 1 and best >= _AGAINST else None


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
    try:
        return layout_of(shape, image.shape, model)
    except ValueError:  # tokens that fit several grids
        return None


def _readings_of(
    shape: tuple[int, ...], batch: int, image: Sequence[int], model: nn.Module, first: Layout | None
) -> Iterator[Layout]:
    """Every way to read an output of ``shape`` for one image, the likeliest first."""
    if first is not None:
        yield first
    others = [axis for axis in range(len(shape)) if axis != batch]
    instances = shape[batch] if shape[batch] > 1 else None
    if instances is not None and (len(image) != 5 or image[1] != instances):
        return
    usual = _usual_axes(image, model)
    start = 2 if instances is not None else 1
    seen = {_key(first, len(image))} if first is not None else set()
    for layout in _plain(shape, batch, others, range(start, len(image)), usual, instances):
        if (key := _key(layout, len(image))) not in seen:
            seen.add(key)
            yield layout
    if len(others) == 2 and len(usual) > 1 and instances is None:
        for layout in _flattened(shape, batch, others, image, model, usual):
            if (key := _key(layout, len(image))) not in seen:
                seen.add(key)
                yield layout


def _usual_axes(image: Sequence[int], model: nn.Module) -> tuple[int, ...]:
    """The image's dimensions of positions where nothing tells otherwise: all but batch and channels."""
    if len(image) == 5 and size_of(image, model) != tuple(image[2:]):
        return (1, 3, 4)
    return tuple(range(2, len(image))) if len(image) > 2 else (1,)


def _plain(
    shape: tuple[int, ...],
    batch: int,
    others: list[int],
    image_axes: Sequence[int],
    usual: tuple[int, ...],
    instances: int | None,
) -> Iterator[Layout]:
    """One dimension of channels, the others each along one of the image's."""
    positions = len(others) - 1
    choices = sorted(
        itertools.permutations(image_axes, positions),
        key=lambda along: (sum(axis not in usual for axis in along), list(along) != sorted(along), -sum(along)),
    )
    for along in choices:
        for channels in others:
            rest = [axis for axis in others if axis != channels]
            pairs = sorted(zip(along, rest, strict=True))
            follows = tuple(axis for axis, _ in pairs)
            if len(follows) == 1 and len(usual) == 2 and instances is None:  # a picture's rows or columns
                whole = usual if follows[0] in usual else (1, 2)
                if follows[0] not in whole:
                    continue
                sizes = tuple(shape[pairs[0][1]] if axis == follows[0] else 1 for axis in whole)
                yield Layout("axes", sizes, axes=(batch, channels, pairs[0][1]), along=whole)
                continue
            dims = (batch, channels, *(axis for _, axis in pairs))
            sizes = tuple(shape[axis] for axis in dims[2:])
            yield Layout(_kind(dims), sizes, axes=dims, along=follows, instances=instances)


def _kind(axes: tuple[int, ...]) -> Kind:
    """What the usual orders of dimensions are called."""
    rank = len(axes) - 2
    if axes == tuple(range(rank + 2)):
        return "channels_first"
    if axes in ((0, 2, 1), (1, 2, 0)):
        return "tokens" if axes[0] == 0 else "tokens_batch_second"
    return "channels_last" if axes == (0, rank + 1, *range(1, rank + 1)) else "axes"


def _flattened(
    shape: tuple[int, ...],
    batch: int,
    others: list[int],
    image: Sequence[int],
    model: nn.Module,
    usual: tuple[int, ...],
) -> Iterator[Layout]:
    """One dimension of channels, the other a grid in a row, with or without extra tokens before it."""
    size = tuple(image[axis] for axis in usual)
    if len(size) > 2:
        return
    for tokens in others:
        (channels,) = (axis for axis in others if axis != tokens)
        exact, rounded = grids_of(shape[tokens], size)
        loose = [
            ((rows, (shape[tokens] - prefix) // rows), prefix)
            for prefix in (0, 1)
            for rows in range(2, shape[tokens] // 2 + 1)
            if (shape[tokens] - prefix) % rows == 0 and shape[tokens] - prefix > rows
        ]
        for (grid, prefix), down in itertools.product(dict.fromkeys([*exact, *rounded, *loose]), (False, True)):
            if math.prod(grid) > 1:
                yield Layout("axes", grid, prefix, axes=(batch, channels, tokens), down=down, along=usual)


def _key(layout: Layout, image_rank: int) -> Any:
    """Equal for readings that view alike."""
    along = layout.along if layout.along is not None else tuple(range(image_rank - len(layout.map), image_rank))
    grid = (layout.map, layout.prefix, layout.down) if len(layout.order) - 2 < len(layout.map) else None
    if grid is not None and math.prod(layout.map) == max(layout.map):
        grid = (layout.map, layout.prefix, False)
    return layout.order, along, grid
