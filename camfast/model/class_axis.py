"""Where the classes are in a model's scores: by evidence, never by a guess.

    [N, classes]                  the usual
    [N, classes, *size]           segmentation: a plane of each class
    [N, queries, classes]         DETR, captions, characters of a text
    [N, 4 + classes, anchors]     detectors' rows, of which the first are coordinates of boxes

The evidence, the first that decides: how many names the user gave; what the model says of its classes
(``num_labels``, ``num_classes``, ``nc``, ``names``); axes that have the proportions of the image; and a pass over one
image in which the layer that produced the scores returns a ramp over its features: the axis along which the scores rise.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .bounded import Bounded
from .inputs import Inputs
from .outputs import scores_in, tensors_in
from .restored import Restored
from .untouched import quiet

__all__ = ["AmbiguousClasses", "ClassAxis", "Classes", "Over"]

Over = Literal["best", "sum", "mean"] | int | tuple[int, ...]

_BOX_ROWS = (4, 5)  # coordinates, and whether there is an object at all
_TRIES = 8  # layers that may have produced the scores, from the last one backwards
_COUNTS = ("num_labels", "num_classes", "n_classes", "nclasses", "nc", "vocab_size")
_NAMES = ("names", "id2label", "class_names", "classes")


class AmbiguousClasses(ValueError):
    """Nothing tells which axis of the scores is that of the classes."""


class ClassAxis(NamedTuple):
    """The classes' place in scores ``[N, ...]``, and how a class counts over the other axes."""

    axis: int = 1
    start: int = 0  # columns before the first class: the coordinates of a box
    classes: int = 1  # columns of them
    over: Over = "mean"
    nothing: bool = False  # whether the last column stands for "no object"

    def planes(self, scores: Tensor) -> Tensor:
        """``[N, columns, places]``, of scores ``[N, ...]``."""
        if scores.ndim == 1:
            return scores.reshape(-1, 1, 1)
        return scores.movedim(self.axis, 1).reshape(scores.shape[0], scores.shape[self.axis], -1)

    def weights(self, planes: Tensor, others: Sequence[int]) -> Tensor:
        """The share of each place in a class's score, of the shape of ``planes`` ``[..., places]``.

        ``others`` are the lengths of the axes that ``places`` were made of.
        """
        places = planes.shape[-1]
        if self.over == "mean":
            return torch.full_like(planes, 1 / places)
        if self.over == "sum":
            return torch.ones_like(planes)
        if self.over == "best":
            index = planes.detach().argmax(-1, keepdim=True)
            return torch.zeros_like(planes).scatter_(-1, index, 1)
        shares = torch.zeros_like(planes)
        shares[..., self.place(others)] = 1
        return shares

    def place(self, others: Sequence[int]) -> int:
        """The number of the place that ``over`` is the index of."""
        index = self.over if isinstance(self.over, tuple) else (self.over,)
        if len(index) != len(others):
            raise ValueError(f"over must be one index for each of the axes {list(others)}, got {self.over!r}")
        flat = 0
        for at, length in zip(index, others, strict=True):
            if not isinstance(at, int) or not -length <= at < length:
                raise ValueError(f"over must be an index from 0 to {length - 1}, got {at!r}")
            flat = flat * length + at % length
        return flat

    def others(self, scores: Tensor) -> list[int]:
        """The lengths of the axes of scores ``[N, ...]`` besides images and classes."""
        return [length for axis, length in enumerate(scores.shape) if axis not in (0, self.axis)]

    def read(self, scores: Tensor) -> Tensor:
        """``[N, columns]``: each class's score over the other axes; the same values, and gradients, as its targets have."""
        planes = self.planes(scores)
        if planes.shape[-1] == 1:
            return planes.squeeze(-1)
        if self.over == "mean":
            return planes.mean(-1)
        if self.over == "sum":
            return planes.sum(-1)
        return planes.amax(-1) if self.over == "best" else planes[..., self.place(self.others(scores))]

    def row(self, scores: Tensor, category: int) -> Tensor:
        """``[classes]`` of one image ``[1, ...]``, at the place that counts for the class ``category``."""
        planes = self.planes(scores)[0, self.start : self.start + self.classes]
        if self.over in ("mean", "sum"):
            return planes.mean(-1) if self.over == "mean" else planes.sum(-1)
        best = self.over == "best"
        return planes[:, planes[category].detach().argmax() if best else self.place(self.others(scores))]

    def seeds(self, scores: Tensor, ids: Tensor) -> Tensor:
        """``[K, *scores.shape]``: what to differentiate ``scores`` along for columns ``ids`` ``[N, K]``."""
        planes = self.planes(scores.detach())
        N, C, P = planes.shape
        K = ids.shape[1]
        index = ids.unsqueeze(-1).expand(N, K, P)
        own = self.weights(planes.gather(1, index), self.others(scores))  # [N, K, P]
        seeds = planes.new_zeros(K, N, C, P)
        seeds.scatter_(2, ids.t()[:, :, None, None].expand(K, N, 1, P), own.transpose(0, 1).unsqueeze(2))
        if scores.ndim == 1:
            return seeds.reshape(K, N)
        return seeds.reshape(K, N, C, *self.others(scores)).movedim(2, self.axis + 1)

    def softmax(self, scores: Tensor) -> Tensor:
        """Probabilities in place of the classes' scores, zero in other columns."""
        if scores.ndim == 1:
            return scores
        own = scores.narrow(self.axis, self.start, self.classes).softmax(self.axis)
        if self.classes == scores.shape[self.axis]:
            return own
        full = torch.zeros_like(scores)
        full.narrow(self.axis, self.start, self.classes).copy_(own)
        return full


class Classes:
    """What is known of a model's classes; finds their axis in its scores.

    Args:
        names: the user's names of the classes.
        model: the model, to be asked for its number of classes, and for a pass where that does not tell.
        inputs: arguments of a call of it.
    """

    def __init__(
        self, names: Sequence[str] | None = None, model: nn.Module | None = None, inputs: Inputs | None = None
    ) -> None:
        self.names, self.model, self.inputs = names, model, inputs

    def axis(self, scores: Tensor) -> ClassAxis:
        """Where the classes are in ``scores`` ``[N, ...]``.

        Raises:
            AmbiguousClasses: nothing tells; the message says what would.
        """
        if scores.ndim < 3:
            return ClassAxis(classes=scores.shape[1] if scores.ndim == 2 else 1)
        shape = tuple(scores.shape)
        self.check_images(scores)
        for found in self._evidence(shape):
            if found is not None:
                return found
        raise AmbiguousClasses(
            f"expected scores whose axis of classes is known, got {list(shape)} with neither class_names= nor a model that "
            "tells; give camfast.targets.Class(c, axis=-1, over='best') ('sum', 'mean' or an index as well), or a callable"
        )

    def given(self, scores: Tensor, axis: int) -> ClassAxis:
        """The axis that the user named."""
        if not -scores.ndim < axis < scores.ndim or axis % scores.ndim == 0:
            raise ValueError(f"axis must be one of scores {list(scores.shape)} besides the first, got {axis}")
        axis %= scores.ndim
        positions = scores.ndim >= 3 and self._positions(tuple(scores.shape)) == axis
        return ClassAxis(axis, 0, scores.shape[axis], "mean" if positions or scores.ndim < 3 else "best")

    def _evidence(self, shape: tuple[int, ...]) -> Iterator[ClassAxis | None]:
        positions = self._positions(shape)
        if self.names is not None:
            yield self._of_counts(shape, [len(self.names)], positions)
        told = list(_told(self.model)) if self.model is not None else []
        for counts in told:
            yield self._of_counts(shape, counts, positions)
        labels = _labels(self.model) if self.model is not None else None
        last = len(shape) - 1
        if labels is not None and shape[-1] == labels + 1 and not {labels, labels + 1} & set(shape[1:-1]):
            # So many may be anchors by chance.
            seen = self._rise(shape)
            if seen is None or seen.axis == last:
                yield ClassAxis(last, 0, shape[-1], "best", nothing=True)
        if self.names is not None:
            yield self._of_rows(shape, [len(self.names)])
        for counts in told:
            yield self._of_rows(shape, counts)
        if positions is not None:
            yield self._at(shape, positions, positions)
        seen = self._rise(shape)
        if seen is not None and seen.axis is not None:
            yield self._at(shape, seen.axis, positions)
        if self.model is None and len(shape) > 3:  # scores alone, of which nothing else can be known
            yield self._at(shape, 1, 1)

    def _at(self, shape: tuple[int, ...], axis: int, positions: int | None) -> ClassAxis:
        labels = _labels(self.model) if self.model is not None else None
        nothing = axis == len(shape) - 1 and labels is not None and shape[axis] == labels + 1
        image = positions == axis or (axis == 1 and not nothing)
        return ClassAxis(axis, 0, shape[axis], "mean" if image else "best", nothing)

    def _of_counts(self, shape: tuple[int, ...], counts: Sequence[int], positions: int | None) -> ClassAxis | None:
        axes = {axis for axis, length in enumerate(shape) if axis and length in counts}
        # Another axis may hold the classes and "no object", or the coordinates of boxes before the classes.
        more = {count + extra for count in counts for extra in (1, *_BOX_ROWS)}
        if len(axes) != 1 or any(length in more for axis, length in enumerate(shape) if axis and axis not in axes):
            return None
        (axis,) = axes
        return self._at(shape, axis, positions)

    def _of_rows(self, shape: tuple[int, ...], counts: Sequence[int]) -> ClassAxis | None:
        """Of detectors' rows: coordinates of a box, then the classes."""
        if len(shape) != 3 or (self.inputs is not None and self.inputs.image.ndim < 4):
            return None  # boxes are of pictures
        found = {
            (axis, before)
            for axis in (1, 2)
            for before in _BOX_ROWS
            if (count := shape[axis] - before) in counts and shape[3 - axis] not in (count, count + 1)
        }
        # Five columns and the labels, or four, the labels and "no object".
        labels = _labels(self.model) if self.model is not None else None
        found |= {(axis, 4) for axis in (1, 2) if labels is not None and shape[axis] == labels + 5}
        if len(found) != 1:
            return None
        ((axis, start),) = found
        return ClassAxis(axis, start, shape[axis] - start, "best")

    def _positions(self, shape: tuple[int, ...]) -> int | None:
        """The classes' axis where the others, two or more, have the proportions of the image; None where that is unclear."""
        if self.inputs is None or len(shape) < 4:
            return None
        rank = len(shape) - 2
        image = self.inputs.image.shape
        sizes = [tuple(image[2:]), tuple(image[1:-1])] if len(image) - 2 == rank else []
        fits = [
            axis
            for axis, others in ((1, shape[2:]), (len(shape) - 1, shape[1:-1]))
            if any(_proportionate(others, size) for size in sizes)
        ]
        return fits[0] if len(fits) == 1 else None

    def check_images(self, scores: Tensor) -> None:
        """Raises ``AmbiguousClasses`` where the images are along the second axis, and the first is as long."""
        shape = tuple(scores.shape)
        if len(shape) < 3 or shape[0] != shape[1] or shape[0] == 1 or self.model is None or self.inputs is None:
            return
        if (1, *shape[1:]) in _rise(self.model, self.inputs, shape).shapes:
            return
        if (shape[1], 1, *shape[2:]) in _rise(self.model, self.inputs, shape).shapes:
            raise AmbiguousClasses(
                f"expected scores with the images first, got {list(shape)} with the images second, as many as the first "
                "axis has; explain another number of images at once"
            )

    def _rise(self, shape: tuple[int, ...]) -> _Rise | None:
        """What a ramp over a layer's features showed; None without a model to look at."""
        if self.model is None or self.inputs is None:
            return None
        return _rise(self.model, self.inputs, shape)


def _proportionate(size: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a map could be the image at another resolution, each dimension rounded in its own way."""
    ratios = [(length - 1) / full for length, full in zip(size, image, strict=True)]
    tops = [(length + 1) / full for length, full in zip(size, image, strict=True)]
    return min(size) > 1 and max(ratios) < min(tops)


# What a model says of its classes


def _told(model: nn.Module) -> Iterator[list[int]]:
    """Numbers of classes that ``model`` tells, then those that parts of it tell, the outer ones first."""
    sizes = {parameter.shape[0] for parameter in model.parameters() if parameter.ndim}
    levels: dict[int, list[int]] = {}
    for name, module in model.named_modules():
        for count in _counts(module):
            if {count, count + 1} & sizes:  # no layer gives so many: a default that says nothing
                levels.setdefault(name.count(".") + bool(name), []).append(count)
    for level in sorted(levels):
        yield levels[level]


def _counts(module: nn.Module) -> Iterator[int]:
    for source in (module, getattr(module, "config", None)):
        if source is None:
            continue
        values = source if isinstance(source, Mapping) else getattr(source, "__dict__", {})
        for name in _COUNTS:
            value = values.get(name)
            if value is None and source is not module and not isinstance(source, Mapping):
                value = getattr(source, name, None)  # a property of configurations
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                yield value
        for name in _NAMES:
            value = values.get(name)
            if isinstance(value, (Mapping, list, tuple)) and len(value) > 1:
                yield len(value)


def _labels(model: nn.Module) -> int | None:
    """The ``num_labels`` of a Hugging Face configuration: its detectors' scores have one column more, the last."""
    for module in model.modules():
        value = getattr(getattr(module, "config", None), "num_labels", None)
        if isinstance(value, int):
            return value
    return None


# A pass in which the last layer returns a ramp


class _Rise(NamedTuple):
    axis: int | None
    shapes: list[tuple[int, ...]]  # of the tensors that the model returned for one image


_rises: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Rise]] = weakref.WeakKeyDictionary()


def _rise(model: nn.Module, inputs: Inputs, shape: tuple[int, ...]) -> _Rise:
    """The axis of scores of ``shape`` that a ramp over a layer's features shows up in; remembered for each shape."""
    known = _rises.setdefault(model, Bounded())
    key = tuple(inputs.image.shape[1:]), shape[1:]
    rise = known.get(key)
    if rise is None:
        rise = known[key] = _look(model, inputs, shape)
    return rise


def _look(model: nn.Module, inputs: Inputs, shape: tuple[int, ...]) -> _Rise:
    with quiet(model), torch.no_grad():
        for one in (inputs.first(), inputs):
            called: list[nn.Module] = []
            try:
                output = _passed(model, one, called.append, None)
            except Exception:  # exported for another batch size, perhaps
                continue
            shapes = [tuple(tensor.shape) for tensor in tensors_in(output)]
            before = _matching(output, shape[1:])
            if before is None:
                return _Rise(None, shapes)
            for layer in list(dict.fromkeys(reversed(called)))[:_TRIES]:
                after = _matching(_passed(model, one, None, layer), shape[1:])
                axis = None if after is None or after.shape != before.shape else _rising_axis(before, after, layer)
                if axis is not None:
                    return _Rise(axis, shapes)
            return _Rise(None, shapes)
    return _Rise(None, [])


def _passed(model: nn.Module, inputs: Inputs, note: Any, layer: nn.Module | None) -> Any:
    """What the model returns; ``note`` is told of each layer that makes features, ``layer`` returns ramps over its own."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if note is not None:
            note(module)
        if module is not layer or not isinstance(output, Tensor):
            return None
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else output.ndim - 1
        count = output.shape[axis]
        ramp = torch.linspace(-1, 1, count, device=output.device).to(output.dtype)
        return ramp.reshape(count, *(1,) * (output.ndim - 1 - axis)).expand_as(output).clone()

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    with Restored() as restored:
        for module in model.modules():
            if isinstance(module, kinds):
                restored.hook(module, hook)
        cut = inputs.cut()
        return model(*cut.args, **cut.kwargs)


def _matching(output: Any, shape: tuple[int, ...]) -> Tensor | None:
    """The tensor ``[N, *shape]`` in an output, the scores before others, with the images first."""
    scores = scores_in(output)
    candidates = [*([] if scores is None else [scores]), *tensors_in(output)]
    for tensor in candidates:
        if tensor.is_floating_point() and tuple(tensor.shape[1:]) == shape:
            return tensor
    for tensor in candidates:
        if tensor.is_floating_point() and tensor.ndim >= 3 and tuple(tensor.transpose(0, 1).shape[1:]) == shape:
            return tensor.transpose(0, 1)
    return None


def _rising_axis(before: Tensor, after: Tensor, layer: nn.Module) -> int | None:
    """The one axis along which ``after`` varies, where a ramp decided what it is."""
    wide = after.double()
    if not wide.isfinite().all() or torch.equal(before, after):
        return None
    extent = (wide.amax() - wide.amin()).item()
    if extent == 0:
        return None
    steps = [
        wide.diff(dim=axis).abs().gt(1e-6 * extent).double().mean().item() if length > 1 else 0.0
        for axis, length in enumerate(after.shape)
    ]
    steps[0] = 0.0
    best = max(range(len(steps)), key=steps.__getitem__)
    features = int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))
    others = max(step for axis, step in enumerate(steps) if axis != best)
    clear = steps[best] > 0.5 and others < 0.2 and features % after.shape[best] == 0
    return best if clear else None
