"""Arguments of detectors, and what becomes of them: for photographs, and for streams that may be explained by either kind."""

from __future__ import annotations

import argparse
from typing import Any

from .. import zoo
from ..video.realtime import Realtime
from .arguments import add_device, best_device, fraction, load_network, positive, stream_engine

__all__ = ["add_boxes", "add_detector", "add_stream_detector", "class_words", "load_detector", "stream"]

MODELS = (
    "a torchvision detector (fasterrcnn_resnet50_fpn, ...), a file of weights of ultralytics, a folder of Hugging Face, or "
    "a pickled network"
)

STEADY = 0.1  # how far below the least score a box may fall that the frame before had


def add_detector(parser: argparse.ArgumentParser) -> None:
    """The detector's arguments, which :func:`load_detector` reads."""
    network = parser.add_argument_group("the detector")
    network.add_argument("-m", "--model", required=True, metavar="MODEL", help=MODELS)
    network.add_argument(
        "--weights", metavar="FILE", help="of a torchvision detector: safetensors or a state dict of torch.save"
    )
    network.add_argument("--labels", metavar="FILE", help="its class names: one per line, or JSON")
    _add_input(network)
    add_device(network)


def add_boxes(parser: argparse.ArgumentParser, title: str = "the boxes") -> Any:
    """Which boxes are explained; returns the group."""
    boxes = parser.add_argument_group(title)
    boxes.add_argument("--classes", nargs="+", metavar="CLASS", help="names or numbers whose boxes are kept (all)")
    boxes.add_argument(
        "--min-score", type=fraction, default=0.25, metavar="P", help="the least score of a box (%(default)s)"
    )
    boxes.add_argument("--top", type=positive, default=16, metavar="N", help="the most boxes (%(default)s)")
    return boxes


def add_stream_detector(parser: argparse.ArgumentParser) -> None:
    """The arguments with which a stream is explained by a detector."""
    group = add_boxes(parser, "with a detector")
    what = "--model is a detector, which it is without this word where its name or file says so; as for camfast detect"
    group.add_argument("--detect", action="store_true", help=what)
    _add_input(group)


def load_detector(options: argparse.Namespace) -> zoo.Detector:
    """The detector of ``--model``, on the best device or the one asked for."""
    device = options.device or best_device()
    return zoo.load_detector(options.model, options.weights, options.labels, device, options.size, options.trust)


def class_words(options: argparse.Namespace) -> list[int | str] | None:
    """What ``--classes`` asks for; a number counts as the detector's labels do."""
    if options.classes is None:
        return None
    return [int(word) if word.isascii() and word.isdecimal() else word for word in options.classes]


def stream(options: argparse.Namespace, **settings: Any) -> tuple[zoo.Network | zoo.Detector, Realtime]:
    """The network or the detector of ``--model``, and the engine that explains frames by it, as the arguments ask for."""
    if not options.detect and not zoo.is_detector(options.model):
        if options.classes is not None:
            raise ValueError(
                f"expected a detector for --classes, got {options.model}; --target names a classifier's class"
            )
        network = load_network(options)
        return network, stream_engine(options, network, **settings)
    if options.target is not None:
        raise ValueError(f"expected --classes with a detector, whose boxes are kept, got --target {options.target[0]}")
    detector = load_detector(options)
    engine = Realtime(
        detector.model,
        options.method,
        options.layer,
        class_words(options),
        colormap=options.colormap,
        alpha=options.alpha,
        smooth=options.smooth,
        sticky=STEADY,
        input_size=detector.side,
        preparation=detector.prepare,
        class_names=detector.class_names,
        detect=True,
        min_score=options.min_score,
        top=options.top,
        **settings,
    )
    engine.threads = options.threads or "auto"
    return detector, engine


def _add_input(group: Any) -> None:
    group.add_argument("--size", type=positive, metavar="N", help="the longer side of a detector's input (as trained)")
    group.add_argument(
        "--trust",
        action="store_true",
        help="run the code that a pickled network brings: only where you know its origin",
    )
