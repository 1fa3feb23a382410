"""``camfast gallery``: every method on the same photographs and the same trained network, in one labelled picture."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import ops, zoo
from ..errors import require
from ..methods import METHODS
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import figures, photos
from .arguments import add_model, method_name
from .tables import Number, aligned

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Entry", "add_arguments", "draw", "explain", "run", "square"]

COLUMNS = 4
SIDE = 256  # of a photograph in the picture
CONCEPTS = ((214, 84, 36), (38, 116, 178), (58, 160, 90), (150, 90, 190), (230, 180, 40))

# Methods of many passes over the image, and how they are kept to seconds here.
QUICK: dict[str, dict[str, Any]] = {
    "score_cam": {"channels": 32},
    "ss_cam": {"channels": 32, "samples": 2, "seed": 0},
    "is_cam": {"channels": 32, "samples": 2},
    "smooth_grad_cam_plus_plus": {"seed": 0},
    "random_cam": {"seed": 0},
    "sess": {"num_scales": 3},
}


@dataclass
class Entry:
    """One method on all photographs."""

    name: str
    heatmaps: Tensor  # [photos, side, side], or [photos, K, side, side] of concepts
    milliseconds: float  # per photograph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast gallery``."""
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="files (a cat and a cup of espresso)")
    parser.add_argument(
        "-o", "--output", default="camfast-gallery.png", metavar="FILE", help="the picture (%(default)s)"
    )
    some = f"some of {', '.join(METHODS)} (all)"
    parser.add_argument("--methods", nargs="+", type=method_name, metavar="M", help=some)
    add_model(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the picture and prints the methods' times, and why a method does not fit the network.

    The exit code is 1 where none fits.
    """
    pictures = [square(photos.read(file)) for file in options.photos] if options.photos else _usual()
    network = zoo.load(options.model, options.weights)
    entries, titles = [], _classes(network, pictures)
    for name in options.methods or METHODS:
        try:
            entries.append(explain(network, pictures, name))
        except ValueError as error:
            print(f"camfast gallery: {name}: {error}", file=sys.stderr)
    if not entries:
        return 1
    subtitle = f"{network.name}, trained on ImageNet; each photograph's best class: {' and '.join(titles)}"
    file = photos.write(draw(pictures, entries, subtitle), options.output)
    print(aligned(["method", "ms per photograph"], [[e.name, Number(f"{e.milliseconds:.0f}")] for e in entries]))
    print(f"\nwritten: {file}")
    return 0


def square(photo: np.ndarray) -> np.ndarray:
    """The middle of ``photo``, RGB uint8 ``[SIDE, SIDE, 3]``."""
    require("PIL", "demo")
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(Image.fromarray(photo), (SIDE, SIDE)))


def explain(network: zoo.Network, pictures: Sequence[np.ndarray], name: str) -> Entry:
    """The heatmaps of one method for each picture's best class. Raises ``ValueError`` where it does not fit."""
    prepare = network.preparation.stretched()
    images = torch.stack([prepare(picture) for picture in pictures])
    with METHODS[name](network.model, **QUICK.get(name, {})) as explainer:
        start = time.perf_counter()
        result = explainer(images, size=(SIDE, SIDE))
        milliseconds = (time.perf_counter() - start) * 1000 / len(pictures)
    return Entry(name, result.heatmap.float(), milliseconds)


def draw(pictures: Sequence[np.ndarray], entries: Sequence[Entry], subtitle: str, width: int = 1600) -> Image.Image:
    """The labelled picture: a panel of the photographs, and one of each method's heat over them."""
    frames = torch.from_numpy(np.stack(pictures))
    panels = [figures.Panel(_beside(frames), "Photographs")]
    for entry in entries:
        if entry.heatmaps.ndim == 4:
            drawn = _concepts(frames, entry.heatmaps)
        else:
            drawn = ops.overlay(frames, entry.heatmaps, COLORMAP, ALPHA)
        panels.append(figures.Panel(_beside(drawn), METHODS[entry.name].__name__, _note(entry.name)))
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    return figures.compose(rows, "One network, every method", subtitle, width)


def _note(name: str) -> str:
    options = QUICK.get(name, {})
    return ", ".join(f"{value} {key.replace('num_', '')}" for key, value in options.items() if key != "seed")


def _classes(network: zoo.Network, pictures: Sequence[np.ndarray]) -> list[str]:
    prepare = network.preparation.stretched()
    with torch.inference_mode():
        scores = network.model(torch.stack([prepare(picture) for picture in pictures]))
    return [network.class_name(number) for number in scores.argmax(1).tolist()]


def _usual() -> list[np.ndarray]:
    """A cat and a cup of espresso, photographs that scikit-image carries (both CC0)."""
    data = Path(str(require("skimage", "demo").__file__)).parent / "data"
    return [square(photos.read(data / name)) for name in ("chelsea.png", "coffee.png")]


def _beside(pictures: Tensor) -> np.ndarray:
    return np.concatenate(list(pictures.numpy()), axis=1)


def _concepts(frames: Tensor, heat: Tensor) -> Tensor:
    """``frames`` with each pixel in the colour of the concept that is strongest there."""
    colors = torch.tensor([CONCEPTS[k % len(CONCEPTS)] for k in range(heat.shape[1])], dtype=torch.float32)
    strength, concept = heat.max(1)
    share = (0.2 + 0.5 * strength.clamp(0, 1)).unsqueeze(-1)
    return (frames * (1 - share) + colors[concept] * share).round().to(torch.uint8)
