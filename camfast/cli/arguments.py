"""Arguments that several commands share, and what becomes of them: photographs, the network, the heat."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import torch

from .. import zoo
from ..methods import METHODS
from ..methods.ranges import Normalize, check_normalize
from ..ops import colormaps
from ..targets import TopK, find_class
from ..video.realtime import Realtime

__all__ = [
    "add_colormap",
    "add_device",
    "add_heat",
    "add_model",
    "add_network",
    "add_photos",
    "add_smooth",
    "add_threads",
    "best_device",
    "fraction",
    "load_network",
    "method_name",
    "not_negative",
    "positive",
    "stream_engine",
    "stream_targets",
    "value_range",
    "wanted_targets",
    "whole",
]


def add_photos(parser: argparse.ArgumentParser) -> None:
    """``PHOTO ...``: files, folders and patterns."""
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a file, a folder (searched recursively) or a pattern"
    )


def add_model(parser: Any) -> None:
    """``--model`` and ``--weights``."""
    parser.add_argument(
        "-m", "--model", default=zoo.DEFAULT, metavar="NAME", help="a torchvision or timm classifier (%(default)s)"
    )
    parser.add_argument("--weights", metavar="FILE", help="its weights: safetensors or a state dict of torch.save")


def add_device(parser: Any) -> None:
    """``--device``."""
    parser.add_argument("--device", type=_device, metavar="D", help="cpu, cuda, cuda:1, ... (a GPU where there is one)")


def add_network(parser: argparse.ArgumentParser, fit: str = "crop") -> None:
    """The network's arguments, which :func:`load_network` reads."""
    network = parser.add_argument_group("the network")
    add_model(network)
    network.add_argument("--labels", metavar="FILE", help="its class names: one per line, or JSON")
    network.add_argument(
        "--fit",
        choices=["crop", "stretch"],
        default=fit,
        help="crop: the library's own preparation, which cuts the centre out; stretch: all of it (%(default)s)",
    )
    add_device(network)


def add_colormap(parser: Any, default: str) -> None:
    """``--colormap``."""
    known = ", ".join(dict.fromkeys([default, "jet", "turbo", "viridis"]))
    parser.add_argument("--colormap", type=_colormap, default=default, metavar="C", help=f"{known}, ... (%(default)s)")


def add_heat(
    parser: argparse.ArgumentParser, method: str | None = "grad_cam", usual: str = "%(default)s", targets: bool = True
) -> Any:
    """The heat's arguments, with ``method`` as the default, which help calls ``usual``; returns their group."""
    heat = parser.add_argument_group("the heat")
    heat.add_argument("--method", type=method_name, default=method, metavar="M", help=f"{', '.join(METHODS)} ({usual})")
    heat.add_argument(
        "--layer", action="append", metavar="L", help="layer to explain, repeatable (the last one with a spatial map)"
    )
    if targets:
        heat.add_argument(
            "--target",
            action="append",
            metavar="CLASS",
            help="a class by name or number, repeatable, or top5 for the five best (the best one)",
        )
    add_colormap(heat, colormaps.COLORMAP)
    heat.add_argument(
        "--alpha", type=fraction, default=colormaps.ALPHA, metavar="A", help="weight of the heat, 0 to 1 (%(default)s)"
    )
    return heat


def add_smooth(heat: Any) -> None:
    """``--smooth``, for streams."""
    what = "share of the past in the heat, below 1 (%(default)g)"
    heat.add_argument("--smooth", type=fraction, default=0.0, metavar="S", help=what)


def load_network(options: argparse.Namespace) -> zoo.Network:
    """The network of ``--model`` and what belongs to it, on the best device or the one asked for."""
    network = zoo.load(options.model, options.weights, options.labels, options.device or best_device())
    if options.fit == "stretch":
        network.preparation = network.preparation.stretched()
    return network


def stream_engine(options: argparse.Namespace, network: zoo.Network, **settings: Any) -> Realtime:
    """The engine of ``camfast video`` and ``camfast live``, as their arguments ask for it."""
    engine = Realtime(
        network.model,
        options.method,
        options.layer,
        stream_targets(options, network),
        colormap=options.colormap,
        alpha=options.alpha,
        smooth=options.smooth,
        preparation=network.preparation,
        class_names=network.class_names,
        compile="auto",
        **settings,
    )
    engine.threads = options.threads or "auto"
    return engine


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``, for streams on the CPU."""
    what = "threads of the CPU (the fastest of all, half and one, measured before the first frame); see also --passive"
    parser.add_argument("--threads", type=positive, metavar="N", help=what)


def wanted_targets(words: Sequence[str] | None, class_names: Sequence[str] | None) -> TopK | list[int] | None:
    """What ``--target`` asks for: class numbers, the best k, or None for the best one."""
    if words is None:
        return None
    best = [int(match[1]) for word in words if (match := re.fullmatch(r"top(\d+)", word.strip(), re.IGNORECASE))]
    if not best:
        return [find_class(word, class_names) for word in words]
    if len(words) > 1:
        raise ValueError(f"expected --target {words[0]} alone or classes alone, got {', '.join(words)}")
    return TopK(best[0])


def stream_targets(options: argparse.Namespace, network: zoo.Network) -> TopK | list[int] | int | None:
    """As for photographs, but one class alone is a number: one picture, not a row of one."""
    targets = wanted_targets(options.target, network.class_names)
    return targets[0] if isinstance(targets, list) and len(targets) == 1 else targets


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def method_name(word: str) -> str:
    """``word`` as :data:`METHODS` spells it: GradCAM, grad-cam and grad_cam are one, and so are ++ and plus_plus."""
    plain = {name.replace("_", ""): name for name in METHODS}
    wanted = re.sub(r"[-_ ]", "", word.casefold().replace("++", "plusplus"))
    if wanted not in plain:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(METHODS)}, got {word!r}")
    return plain[wanted]


def positive(word: str) -> int:
    """A whole number above 0."""
    if not (word.isascii() and word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {word!r}")
    return int(word)


def whole(word: str) -> int:
    """A whole number, 0 or more."""
    if not (word.isascii() and word.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {word!r}")
    return int(word)


def value_range(word: str) -> Normalize:
    """ "each", "shared", or two numbers, the first the lower one."""
    if word.strip().casefold() in ("each", "shared"):
        return "shared" if word.strip().casefold() == "shared" else True
    try:
        low, high = map(float, re.split(r"[,:]", word))
        check_normalize((low, high))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected each, shared or two numbers LOW,HIGH, the first the lower one, got {word!r}"
        ) from None
    return low, high


def not_negative(word: str) -> float:
    """A finite number of 0 or more."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, got {word!r}")
    return value


def _device(word: str) -> torch.device:
    try:
        device = torch.device(word)
        torch.zeros(1, device=device).tolist()  # "meta" holds shapes and no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch built without CUDA
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise argparse.ArgumentTypeError(f"expected a device that torch can use, got {word!r} ({reason})") from None
    return device


def _colormap(word: str) -> str:
    try:
        colormaps.table(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def fraction(word: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {word!r}")
    return value
