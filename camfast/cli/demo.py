"""``camfast demo``: one photograph with two things in it, and where a trained network saw each of them, in one labelled picture."""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import ops, zoo
from ..errors import require
from ..methods import GradCAM
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import figures, photos
from ..pictures.preparation import Preparation
from ..targets import TopK
from .tables import Number, aligned

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Demonstration", "add_arguments", "draw", "explain", "run", "two_things"]

CANDIDATES = 5
ACCENTS = ((214, 84, 36), (38, 116, 178))  # of the first and the second class, in the bar chart
PALE = (196, 201, 208)


@dataclass
class Demonstration:
    """Two classes of one photograph, and where each was seen."""

    photo: np.ndarray  # RGB uint8 [H, W, 3]
    classes: list[int]  # the two explained
    class_names: list[str]  # of all classes
    probabilities: Tensor  # [classes]
    heatmaps: Tensor  # [2, H, W] in [0, 1], at the photograph's size
    raw_maps: Tensor  # [2, h, w] in [0, 1], at the layer's size
    layer: str
    input_size: tuple[int, int]  # of the network, (height, width)
    milliseconds: float  # scores and the maps of all candidates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast demo``."""
    parser.add_argument(
        "photo", nargs="?", metavar="PHOTO", help="a photograph of your own (a cat and a cup of espresso)"
    )
    parser.add_argument("-o", "--output", default="camfast-demo.png", metavar="FILE", help="the picture (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Explains the photograph, prints its classes and writes the picture."""
    result = explain(two_things() if options.photo is None else photos.read(options.photo))
    best = result.probabilities.topk(CANDIDATES)
    rows = []
    for probability, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        drawn = "yes" if number in result.classes else ""
        rows.append([result.class_names[number], Number(f"{probability:.3f}"), drawn])
    file = photos.write(draw(result), options.output)
    print(aligned(["class", "score", "drawn"], rows))
    print(
        f"\nGrad-CAM of EfficientNet-Lite0 at {result.layer}: {CANDIDATES} classes explained in one pass, "
        f"{result.milliseconds:.0f} ms\nwritten: {file}"
    )
    return 0


def two_things() -> np.ndarray:
    """A cat and a cup of espresso side by side, RGB uint8 ``[450, 1200, 3]``.

    The middles of two photographs that scikit-image carries: chelsea (Stefan van der Walt) and coffee (Rachel
    Michetti), both CC0.
    """
    data = Path(str(require("skimage", "demo").__file__)).parent / "data"
    require("PIL", "demo")
    from PIL import Image, ImageOps

    page = Image.new("RGB", (1200, 450))
    for left, name in ((0, "chelsea.png"), (600, "coffee.png")):
        page.paste(ImageOps.fit(Image.fromarray(photos.read(data / name)), (600, 450)), (left, 0))
    return np.array(page)


def explain(photo: np.ndarray) -> Demonstration:
    """Explains two classes of ``photo``, RGB uint8 ``[H, W, 3]``, by EfficientNet-Lite0 with its trained weights.

    The network takes any size: it gets the whole photograph, in its own proportions, at as many pixels as it was
    trained on. All candidates are explained in one pass. The first class drawn is the best; the second is the best of
    the others that was seen somewhere else (its map is not positively correlated with the first), so that two things
    are shown where there are two, rather than two names for one. Where no candidate was, it is the second best.
    """
    network = zoo.load(zoo.DEFAULT)
    size = _input_size(photo.shape[0], photo.shape[1], network.preparation)
    prepare = dataclasses.replace(network.preparation, resize=size, crop=size)
    images = prepare(photo)[None]
    with GradCAM(network.model) as explainer:
        explainer(images, TopK(CANDIDATES), size="map")  # finds the layer, and takes first-call costs out of the time
        start = time.perf_counter()
        result = explainer(images, TopK(CANDIDATES), size="map")
        milliseconds = (time.perf_counter() - start) * 1000
    candidates = ops.resize_normalize(result.heatmap[0], photo.shape[:2])  # [candidates, H, W]
    likeness = torch.corrcoef(result.heatmap[0].flatten(1))[0].nan_to_num(0.0)
    elsewhere = [k for k in range(1, CANDIDATES) if likeness[k] <= 0]
    drawn = [0, elsewhere[0] if elsewhere else 1]
    assert isinstance(result.targets, Tensor)
    return Demonstration(
        photo=photo,
        classes=result.targets[0, drawn].tolist(),
        class_names=[network.class_name(number) for number in range(network.classes)],
        probabilities=result.scores.softmax(1)[0],
        heatmaps=candidates[drawn],
        raw_maps=result.heatmap[0, drawn],
        layer=result.layers[0],
        input_size=size,
        milliseconds=milliseconds,
    )


def draw(result: Demonstration, width: int = 1600) -> Image.Image:
    """The labelled picture: photograph and classes; the heat of both classes; the raw maps it was made of."""
    height, across = result.photo.shape[:2]
    frames = torch.from_numpy(result.photo)[None].expand(2, -1, -1, -1).contiguous()
    overlays = ops.overlay(frames, result.heatmaps, COLORMAP, ALPHA).numpy()
    rows, columns = result.raw_maps.shape[1:]
    black = torch.zeros(2, rows, columns, 3, dtype=torch.uint8)
    cells = ops.overlay(black, result.raw_maps, COLORMAP, 1.0).numpy()

    best = result.probabilities.topk(CANDIDATES)
    entries, colors = [], []
    for probability, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        entries.append((result.class_names[number], probability))
        colors.append(ACCENTS[result.classes.index(number)] if number in result.classes else PALE)
    chart = figures.bars(entries, colors, (740, min(740, round(740 * height / across))))

    size = f"{across} x {height} pixels; the network sees {result.input_size[1]} x {result.input_size[0]}"
    panels = [
        [
            figures.Panel(result.photo, "Photograph", size),
            figures.Panel(chart, "Top classes", f"softmax scores, {CANDIDATES} best of {len(result.class_names)}"),
        ]
    ]
    names = [result.class_names[number] for number in result.classes]
    panels.append(
        [
            figures.Panel(overlay, f"Heat for: {name}", f"score {result.probabilities[number]:.1%}", color)
            for overlay, name, number, color in zip(overlays, names, result.classes, ACCENTS, strict=True)
        ]
    )
    panels.append(
        [
            figures.Panel(
                cell, f"Raw map for: {name}", f"{rows} x {columns} cells at {result.layer}", color, smooth=False
            )
            for cell, name, color in zip(cells, names, ACCENTS, strict=True)
        ]
    )
    subtitle = f"Grad-CAM of EfficientNet-Lite0: scores and the heatmaps of {CANDIDATES} classes from one pass"
    return figures.compose(panels, "One photograph, two classes, each with its own heat", subtitle, width)


def _input_size(height: int, width: int, preparation: Preparation) -> tuple[int, int]:
    """The photograph's proportions at the pixel count of ``preparation``, in multiples of the network's stride, 32."""
    pixels = preparation.crop[0] * preparation.crop[1]
    scale = (pixels / (height * width)) ** 0.5
    rows, columns = (min(max(round(length * scale / 32), 2), 64) * 32 for length in (height, width))
    return rows, columns
