"""Changes planted in one place of one image, and what a layer gives for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .evidence import WIDTH
from .inputs import Inputs
from .layouts import position_axes
from .tap import Tap

__all__ = ["TURNS", "PassFailed", "Planted", "planted", "usual_axes", "where"]

# Where a change is planted, in shares of each of the image's dimensions, the last one first. Late in the last one, so
# that a recurrent network, which answers from there on, answers in a small part. Over all turns no two dimensions go
# together (correlations below 0.05), so that what follows one of them is not taken for following another.
_PLACES = (
    (0.70, 0.25, 0.55, 0.35),
    (0.25, 0.60, 0.15, 0.80),
    (0.50, 0.85, 0.80, 0.15),
    (0.80, 0.32, 0.08, 0.44),
    (0.32, 0.68, 0.68, 0.92),
    (0.56, 0.08, 0.92, 0.68),
    (0.08, 0.44, 0.32, 0.08),
    (0.92, 0.92, 0.44, 0.56),
)
TURNS = len(_PLACES)
_WHOLE = 4  # dimensions of so few entries may be channels: they change as a whole


class Planted:
    """Passes of changed copies of one image. ``inputs`` hold one image, or all of a model of a fixed batch size."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs

    def activations(self, layer: nn.Module, name: str, turn: int | None) -> Tensor:
        """The layer's output for the image with the ``turn``-th change; for None of the image itself.

        ``name`` tells the call, of a layer that runs several times.
        """
        return self.all_activations([(layer, name)], turn)[0]

    def all_activations(self, calls: Sequence[tuple[nn.Module, str]], turn: int | None) -> list[Tensor]:
        """The same of several layers, in one pass."""
        image = self.inputs.image.detach()
        if turn is not None:
            image = planted(image, turn, self.model)
        try:
            layers, names = zip(*calls, strict=True)
            with Tap(self.model, layers, names=names, graph=False) as tap:
                tap.run(self.inputs.with_image(image))
                return tap.activations
        except Exception as error:
            raise PassFailed from error


class PassFailed(Exception):
    """The model does not take the changed image."""


def where(image: Sequence[int], turn: int, model: nn.Module) -> tuple[tuple[slice, ...], tuple[float | None, ...]]:
    """The part of an image tensor of shape ``image`` that the ``turn``-th change is in, and its centre.

    The centre is in shares of each dimension, None for one that changes as a whole: what
    :class:`~camfast.model.evidence.Answer` calls places.
    """
    box: list[slice] = [slice(0, 1)]
    places: list[float | None] = [None]
    rank = len(image)
    may_be_channels = {1, rank - 1} if rank < 5 else set(range(1, rank)) - set(usual_axes(image, model))
    for axis, length in enumerate(image[1:], 1):
        place = _PLACES[turn][(rank - 1 - axis) % len(_PLACES[turn])]
        if length == 1 or (length <= _WHOLE and axis in may_be_channels and rank > 3):
            box.append(slice(None))
            places.append(None)
            continue
        start = min(length - 1, max(0, math.floor(length * (place - WIDTH / 2))))
        end = max(start + 1, min(length, math.ceil(length * (place + WIDTH / 2))))
        box.append(slice(start, end))
        places.append((start + end) / 2 / length)
    return tuple(box), tuple(places)


def planted(image: Tensor, turn: int, model: nn.Module) -> Tensor:
    """``image`` with the ``turn``-th change in the first one, where :func:`where` tells."""
    image = image.clone()
    box, _ = where(image.shape, turn, model)
    part = image[box]
    generator = torch.Generator().manual_seed(turn)
    if image.is_floating_point():
        finite = image[:1].float().nan_to_num(0, 0, 0)
        # Small, and of mean zero: what normalises over the whole map should hardly feel it, what is local answers.
        share = 0.3 if image.dtype.itemsize > 2 else 2.0
        scale = share * (float(finite.std(correction=0)) or float(finite.abs().max()) or 1.0)
        noise = torch.randn(part.shape, generator=generator)
        image[box] = part + (noise * scale).to(part)
    else:
        low, high = int(image.min()), int(image.max())
        noise = torch.randint(0, max(2, high - low + 1), part.shape, generator=generator)
        image[box] = ((part.long() - low + noise.to(part.device)) % max(2, high - low + 1) + low).to(part.dtype)
    return image


def usual_axes(image: Sequence[int], model: nn.Module) -> tuple[int, ...]:
    """The image's dimensions of positions where nothing tells otherwise: all but batch and channels."""
    return position_axes(image, model) if len(image) > 2 else (1,)
