"""``camfast export``: a network with its heat in one file, for other runtimes."""

from __future__ import annotations

import argparse
from typing import get_args

import numpy as np

from ..ops import colormaps
from ..pictures import photos
from ..shipped import SHIPPED, Weights, export
from .arguments import (
    add_colormap,
    add_network,
    fraction,
    load_network,
    method_name,
    positive,
    wanted_targets,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast export``."""
    parser.add_argument("file", metavar="FILE", help=".onnx, .xml (OpenVINO), .pt2 (AOTInductor) or .pte (ExecuTorch)")
    parser.add_argument("--photo", metavar="PHOTO", help="a photograph that the file is checked on (random numbers)")
    add_network(parser)
    heat = parser.add_argument_group("the heat")
    heat.add_argument(
        "--method", type=_method, default="grad_cam", metavar="M", help=f"{', '.join(SHIPPED)} (%(default)s)"
    )
    heat.add_argument("--layer", action="append", metavar="L", help="layer to explain, repeatable (found)")
    heat.add_argument(
        "--target", action="append", metavar="CLASS", help="a class by name or number, or top5 (each image's best one)"
    )
    heat.add_argument("--size", type=positive, metavar="N", help="side of the heatmap (the input's)")
    inside = parser.add_argument_group("in the file")
    inside.add_argument(
        "--frames", type=_frame, metavar="HxW", help="take uint8 frames of this size, such as 480x640, and prepare them"
    )
    inside.add_argument("--overlay", action="store_true", help="draw the heat over the frames too")
    add_colormap(inside, colormaps.COLORMAP)
    inside.add_argument(
        "--alpha", type=fraction, default=colormaps.ALPHA, metavar="A", help="weight of the heat (%(default)s)"
    )
    inside.add_argument("--batch", type=positive, metavar="N", help="exactly so many images (any number)")
    inside.add_argument(
        "--weights-as", choices=get_args(Weights), help="what the weights are kept as; smaller files (as they are)"
    )
    inside.add_argument("--opset", type=positive, metavar="N", help="of ONNX, 18 to 23 (20)")


def run(options: argparse.Namespace) -> int:
    """Writes the file, and prints what it holds and how far it is from the network itself."""
    network = load_network(options)
    size = network.preparation.crop
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    photo = noise if options.photo is None else photos.read(options.photo)
    images = network.preparation(photo)[None].repeat(options.batch or 1, 1, 1, 1)
    targets = wanted_targets(options.target, network.class_names)
    if isinstance(targets, list):
        if len(targets) > 1:
            raise ValueError(f"expected one --target, or top{len(targets)}, got {', '.join(options.target)}")
        targets = targets[0]  # type: ignore[assignment]
    found = export(
        network.model,
        images.to(next(network.model.parameters()).device),
        options.file,
        options.method,
        options.layer,
        targets,
        options.size,
        class_names=network.class_names,
        dynamic=options.batch is None,
        preparation=network.preparation,
        frames=options.frames,
        overlay=options.overlay,
        colormap=options.colormap,
        alpha=options.alpha,
        opset=options.opset,
        weights_as=options.weights_as,
    )
    shown = lambda tensors: ", ".join(f"{name} {_shape(shape)}" for name, shape in tensors.items())  # noqa: E731
    opset = "" if found.opset is None else f", opset {found.opset}"
    print(f"{network.name}, {found.method} at {', '.join(found.layers)}, by {found.form}")
    print(f"in: {shown(found.inputs)}\nout: {shown(found.outputs)}")
    print(f"{found.runtime}{opset}: scores differ by {found.scores:.1e}, heat by {found.heatmap:.1e}")
    print(f"written: {found.path}, {found.bytes / 1e6:.1f} MB")
    return 0


def _shape(shape: list) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _method(word: str) -> str:
    plain = word.strip().casefold().replace("-", "_")
    return plain if plain in SHIPPED else method_name(word)


def _frame(word: str) -> tuple[int, int]:
    height, sign, width = word.casefold().partition("x")
    if not sign or not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 480x640, got {word!r}")
    return int(height), int(width)
