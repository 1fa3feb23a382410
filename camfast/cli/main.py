"""The command line: ``camfast image | video | live | features | layers | ...``. The work is done in the modules it calls."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import require
from ..methods import METHODS
from ..ops import colormaps
from ..targets import TopK
from ..version import __version__
from .tables import Number, table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line ``arguments`` (None: those of the process) and returns its exit code.

    0: all is well; 1: some photographs could not be done; 2: nothing could, for the reason printed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 0
    try:
        return options.run(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"camfast {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from . import live as live_command
    from . import video as video_command

    parser = argparse.ArgumentParser(
        prog="camfast", description="Class-activation maps: where a network looked, at the price of a prediction."
    )
    parser.add_argument("--version", action="version", version=f"camfast {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    image = _command(commands, "image", _image, "explain photographs: one overlay each, and a table of the classes")
    image.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a file, a folder (searched recursively) or a pattern"
    )
    image.add_argument(
        "-o", "--output", default="overlays", metavar="DIR", help="folder for the overlays (%(default)s)"
    )
    _network_arguments(image)
    image.add_argument("--batch-size", type=_positive, default=8, metavar="B", help="photographs a pass (%(default)s)")
    _heat_arguments(image)

    video = _command(commands, "video", _video, "explain a video: a clip of as many frames, with its sound")
    video_command.add_arguments(video)
    _network_arguments(video, fit="stretch")
    _smooth_argument(_heat_arguments(video))

    live = _command(commands, "live", _live, "explain a camera, a file or a stream while it runs, on a page")
    live_command.add_arguments(live)
    _network_arguments(live, fit="stretch")
    _smooth_argument(_heat_arguments(live))

    features = _command(commands, "features", _features, "show what a network's layers make of photographs")
    features.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a file, a folder (searched recursively) or a pattern"
    )
    features.add_argument("--logdir", metavar="DIR", help="TensorBoard log: a tag a layer, a step a photograph")
    features.add_argument("-o", "--out", metavar="DIR", help="folder: a grid a layer, and an overview a photograph")
    features.add_argument(
        "--model", default="efficientnet-lite0", metavar="NAME", help="a torchvision or timm classifier (%(default)s)"
    )
    features.add_argument("--weights", metavar="FILE", help="its weights: safetensors or a state dict of torch.save")
    features.add_argument(
        "--layers", action="append", metavar="PATTERN", help='names such as "features.*", repeatable (all convolutions)'
    )
    features.add_argument(
        "--type", action="append", metavar="T", help="only layers of this class, such as Conv2d, repeatable"
    )
    features.add_argument("--channels", type=_positive, metavar="N", help="the N that vary most of each layer (all)")
    features.add_argument("--labels", action="store_true", help="number the maps")
    features.add_argument("--histograms", action="store_true", help="the weights' histograms in the log as well")
    features.add_argument(
        "--colormap", type=_colormap, default="viridis", metavar="C", help="viridis, gray, jet, ... (%(default)s)"
    )
    features.add_argument(
        "--device", type=_device, metavar="D", help="cpu, cuda, cuda:1, ... (a GPU where there is one)"
    )

    layers = _command(commands, "layers", _layers, "list a network's layers, and mark the one that is explained")
    layers.add_argument("model", metavar="MODEL", help="a torchvision or timm classifier; its weights are not needed")
    layers.add_argument("--depth", type=_positive, metavar="N", help="levels to show (all)")

    demo = _command(commands, "demo", _demo, "explain one photograph with two things in it, in one labelled picture")
    demo.add_argument(
        "photo", nargs="?", metavar="PHOTO", help="a photograph of your own (a cat and a cup of espresso)"
    )
    demo.add_argument("-o", "--output", default="camfast-demo.png", metavar="FILE", help="the picture (%(default)s)")

    gallery = _command(commands, "gallery", _gallery, "explain photographs by every method, in one labelled picture")
    gallery.add_argument("photos", nargs="*", metavar="PHOTO", help="files (a cat and a cup of espresso)")
    gallery.add_argument(
        "-o", "--output", default="camfast-gallery.png", metavar="FILE", help="the picture (%(default)s)"
    )
    gallery.add_argument("--methods", nargs="+", type=_method, metavar="M", help=f"some of {', '.join(METHODS)} (all)")
    gallery.add_argument(
        "--model", default="efficientnet-lite0", metavar="NAME", help="a torchvision or timm classifier (%(default)s)"
    )
    gallery.add_argument("--weights", metavar="FILE", help="its weights: safetensors or a state dict of torch.save")

    info = _command(commands, "info", _info, "versions, libraries, devices: what a bug report needs")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _network_arguments(parser: argparse.ArgumentParser, fit: str = "crop") -> None:
    network = parser.add_argument_group("the network")
    network.add_argument(
        "--model", default="efficientnet-lite0", metavar="NAME", help="a torchvision or timm classifier (%(default)s)"
    )
    network.add_argument("--weights", metavar="FILE", help="its weights: safetensors or a state dict of torch.save")
    network.add_argument("--labels", metavar="FILE", help="its class names: one a line, or JSON")
    network.add_argument(
        "--fit",
        choices=["crop", "stretch"],
        default=fit,
        help="crop: the library's own preparation, which cuts the centre out; stretch: all of it (%(default)s)",
    )
    network.add_argument(
        "--device", type=_device, metavar="D", help="cpu, cuda, cuda:1, ... (a GPU where there is one)"
    )


def _heat_arguments(parser: argparse.ArgumentParser) -> Any:
    heat = parser.add_argument_group("the heat")
    heat.add_argument(
        "--method", type=_method, default="grad_cam", metavar="M", help=f"{', '.join(METHODS)} (%(default)s)"
    )
    heat.add_argument(
        "--layer", action="append", metavar="L", help="layer to explain, repeatable (the last one with a spatial map)"
    )
    heat.add_argument(
        "--target",
        action="append",
        metavar="CLASS",
        help="a class by name or number, repeatable, or top5 for the five best (the best one)",
    )
    heat.add_argument(
        "--colormap", type=_colormap, default="jet", metavar="C", help="jet, turbo, viridis, ... (%(default)s)"
    )
    heat.add_argument(
        "--alpha", type=_fraction, default=0.5, metavar="A", help="weight of the heat, 0 to 1 (%(default)s)"
    )
    return heat


def _smooth_argument(heat: Any) -> None:
    what = "share of the past in the heat, below 1 (%(default)g)"
    heat.add_argument("--smooth", type=_fraction, default=0.0, metavar="S", help=what)


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    command.set_defaults(run=run)
    return command


def _image(options: argparse.Namespace) -> int:
    from ..pictures import photos
    from . import image

    tqdm = require("tqdm", "vision").tqdm
    folder = Path(options.output).expanduser()
    files, errors = photos.find(options.photos, without=[folder])
    failures = len(errors)
    for error in errors:
        print(f"camfast image: {error}", file=sys.stderr)
    if not files:
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    network = _network(options)
    explainer = METHODS[options.method](network.model, options.layer)

    rows = []
    results = image.write_overlays(
        files,
        network,
        explainer,
        folder,
        targets=_targets(options.target, network.class_names),
        colormap=options.colormap,
        alpha=options.alpha,
        batch_size=options.batch_size,
    )
    try:
        for result in tqdm(results, total=len(files), unit="photo", disable=len(files) == 1, file=sys.stderr):
            if isinstance(result, photos.PhotoError):
                tqdm.write(f"camfast image: {result}", file=sys.stderr)
                failures += 1
            else:
                rows += result
    finally:  # also after Ctrl-C: what is done is told
        if rows:
            print(_listing(rows))
            print(f"\n{options.method} of {options.model} at {', '.join(explainer.layers)}")
    return 1 if failures else 0


def _listing(rows: Sequence[Any]) -> str:
    head = ["photo", "class", "score", "ms", "file"]
    cells = []
    for row in rows:
        score, milliseconds = Number(f"{row.score:.3f}"), Number(f"{row.milliseconds:.1f}")
        cells.append([row.photo, row.class_name, score, milliseconds, row.file])
    return table(head, cells)


def _video(options: argparse.Namespace) -> int:
    from . import video

    network = _network(options)
    return video.run(options, network, _stream_targets(options, network))


def _live(options: argparse.Namespace) -> int:
    from . import live

    def load() -> tuple[Any, Any]:
        network = _network(options)
        return network, _stream_targets(options, network)

    return live.run(options, load)


def _stream_targets(options: argparse.Namespace, network: Any) -> Any:
    """As for photographs, but one class alone is a number: one picture, not a row of one."""
    targets = _targets(options.target, network.class_names)
    return targets[0] if isinstance(targets, list) and len(targets) == 1 else targets


def _network(options: argparse.Namespace) -> Any:
    """The network of ``--model`` and what belongs to it, on the best device or the one asked for."""
    from .. import zoo

    network = zoo.load(options.model, options.weights, options.labels, options.device or _best_device())
    if options.fit == "stretch":
        network.preparation = network.preparation.stretched()
    return network


def _features(options: argparse.Namespace) -> int:
    from .. import zoo
    from ..features.maps import FeatureMaps
    from ..pictures import photos
    from . import features

    if options.logdir is None and options.out is None:
        raise ValueError("expected where the maps shall go, --logdir DIR or --out DIR, got neither")
    tqdm = require("tqdm", "vision").tqdm
    files, errors = photos.find(options.photos, without=[] if options.out is None else [options.out])
    for error in errors:
        print(f"camfast features: {error}", file=sys.stderr)
    if not files:
        return 1
    network = zoo.load(options.model, options.weights, device=options.device or _best_device())
    looker = FeatureMaps(network.model, options.layers, options.type, reduce=options.channels)
    results = features.write_features(
        files,
        network,
        looker,
        logdir=options.logdir,
        folder=options.out,
        colormap=options.colormap,
        labels=options.labels,
        histograms=options.histograms,
    )
    failures, layers, done = len(errors), 0, 0
    for result in tqdm(results, total=len(files), unit="photo", file=sys.stderr):
        if isinstance(result, photos.PhotoError):
            tqdm.write(f"camfast features: {result}", file=sys.stderr)
            failures += 1
        else:
            layers, done = len(result[1]), done + 1
    places = " and ".join(str(place) for place in (options.logdir, options.out) if place is not None)
    print(f"{layers} layers of {options.model} for {done} photograph{'s' * (done != 1)} in {places}")
    if options.logdir is not None:
        print(f"tensorboard --logdir {options.logdir}")
    return 1 if failures else 0


def _layers(options: argparse.Namespace) -> int:
    from .. import zoo
    from ..features import layer_tree

    model, size = zoo.untrained(options.model)
    print(layer_tree.layer_tree(model, torch.randn(1, 3, *size), options.depth))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    return demo.run(options.photo, options.output)


def _gallery(options: argparse.Namespace) -> int:
    from . import gallery

    return gallery.run(options.photos, options.output, options.methods, options.model, options.weights)


def _info(options: argparse.Namespace) -> int:
    from . import info

    print(info.report(as_json=options.json))
    return 0


def _targets(words: Sequence[str] | None, class_names: Sequence[str] | None) -> TopK | list[int] | None:
    from ..targets import find_class

    if words is None:
        return None
    best = [int(match[1]) for word in words if (match := re.fullmatch(r"top(\d+)", word.strip(), re.IGNORECASE))]
    if not best:
        return [find_class(word, class_names) for word in words]
    if len(words) > 1:
        raise ValueError(f"expected --target {words[0]} alone or classes alone, got {', '.join(words)}")
    return TopK(best[0])


def _best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device(word: str) -> torch.device:
    try:
        device = torch.device(word)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch built without CUDA
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise argparse.ArgumentTypeError(f"expected a device that torch can use, got {word!r} ({reason})") from None
    return device


def _method(word: str) -> str:
    """``word`` as :data:`METHODS` spells it: GradCAM, grad-cam and grad_cam are one, and so are ++ and plus_plus."""
    plain = {name.replace("_", ""): name for name in METHODS}
    wanted = re.sub(r"[-_ ]", "", word.casefold().replace("++", "plusplus"))
    if wanted not in plain:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(METHODS)}, got {word!r}")
    return plain[wanted]


def _colormap(word: str) -> str:
    try:
        colormaps.table(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def _fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {word!r}")
    return value


def _positive(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {word!r}")
    return int(word)
