"""What a model keeps to itself during a pass: the canvas that it makes of a list of images, tensors of inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..model.restored import Restored
from .inputs import Place, Prepared

__all__ = ["Canvas", "canvas_of", "ordinary"]


@dataclass(repr=False)
class Canvas(Brief):
    """What the maps cover. Of a model that scales and pads its images itself, what it made of each is seen in the pass."""

    places: list[Place]
    padded: tuple[int, int] | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def of(self, image: int) -> tuple[Place, tuple[int, int]]:
        """The place of an image, and height and width of what the maps cover."""
        place = self.places[image]
        if self.padded is not None and len(self.sizes) == len(self.places):
            return replace(place, canvas=self.padded, part=(0, 0, *self.sizes[image])), self.padded
        return place, place.canvas or place.size


@contextlib.contextmanager
def canvas_of(model: nn.Module, source: Prepared) -> Iterator[Canvas]:
    """Looks, in a pass inside, for images that the model put into one padded batch: ``tensors`` with ``image_sizes``."""
    canvas = Canvas(source.places)
    if not source.listed:
        yield canvas
        return

    def look(module: nn.Module, args: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            tensors, sizes = getattr(value, "tensors", None), getattr(value, "image_sizes", None)
            if isinstance(tensors, Tensor) and tensors.ndim == 4 and sizes is not None:
                canvas.padded = (tensors.shape[2], tensors.shape[3])
                canvas.sizes = [(int(height), int(width)) for height, width in sizes]

    children = [child for child in model.children() if not isinstance(child, torch.jit.ScriptModule)]
    with Restored() as restored:
        for child in children:
            restored.hook(child, look)
        yield canvas


@contextlib.contextmanager
def ordinary(model: nn.Module) -> Iterator[None]:
    """Inside, ordinary copies stand for tensors that modules keep as attributes and that were made in inference mode.

    A detector that has run in inference mode may keep its anchors: no graph can be recorded with them.
    """
    kept = []
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_inference():
                kept.append((module, name, value))
    with Restored() as restored:
        with torch.inference_mode(False):
            for module, name, value in kept:
                restored.set(module, name, value.clone())
        yield
