"""``camfast features``: from photographs to feature-map grids, as files or in a TensorBoard log."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import zoo
from ..errors import require
from ..features.maps import FeatureMaps, Maps
from ..pictures import figures, photos
from ..pictures.tensorboard import EventLog
from ..zoo import Network
from .arguments import add_colormap, add_device, add_model, add_photos, best_device, positive
from .names import file_stems

__all__ = ["add_arguments", "overview", "run", "write_features"]

_PANELS = 8  # of an overview, the photograph among them
_TILE_PIXELS = 480  # what a grid file's side is enlarged to, by whole factors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast features``."""
    add_photos(parser)
    parser.add_argument("--logdir", metavar="DIR", help="TensorBoard log: a tag per layer, a step per photograph")
    parser.add_argument("-o", "--out", metavar="DIR", help="folder: a grid per layer, and an overview per photograph")
    add_model(parser)
    parser.add_argument(
        "--layers", action="append", metavar="PATTERN", help='names such as "features.*", repeatable (all convolutions)'
    )
    parser.add_argument(
        "--type", action="append", metavar="T", help="only layers of this class, such as Conv2d, repeatable"
    )
    parser.add_argument("--channels", type=positive, metavar="N", help="the N that vary most of each layer (all)")
    parser.add_argument("--labels", action="store_true", help="number the maps")
    parser.add_argument("--histograms", action="store_true", help="the weights' histograms in the log as well")
    add_colormap(parser, "viridis")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the grids; the exit code is 1 where some photographs could not be done."""
    if options.logdir is None and options.out is None:
        raise ValueError("expected where the maps shall go, --logdir DIR or --out DIR, got neither")
    tqdm = require("tqdm", "vision").tqdm
    files, errors = photos.find(options.photos, without=[] if options.out is None else [options.out])
    for error in errors:
        print(f"camfast features: {error}", file=sys.stderr)
    if not files:
        return 1
    network = zoo.load(options.model, options.weights, device=options.device or best_device())
    looker = FeatureMaps(network.model, options.layers, options.type, reduce=options.channels)
    results = write_features(
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


def write_features(
    files: Sequence[Path],
    network: Network,
    looker: FeatureMaps,
    *,
    logdir: str | Path | None = None,
    folder: str | Path | None = None,
    colormap: str = "viridis",
    labels: bool = False,
    histograms: bool = False,
) -> Iterator[tuple[Path, list[str]] | photos.PhotoError]:
    """The maps of ``looker`` for each of the photographs ``files``, into a TensorBoard log, a folder, or both.

    In the log each layer has one tag, its dotted name, and the photographs are its steps, in their order. In the folder
    each photograph has a folder of grids, ``<photo>/<layer>.png``, and an overview beside it, ``<photo>.png``. Yields,
    for each file in turn, its path and layers, or why it could not be read; the others are done all the same.

    Raises ``ValueError`` where the layers have no maps, ``OSError`` where the log or the folder cannot be written.
    """
    device = next(network.model.parameters()).device
    stems = file_stems(files)
    with contextlib.ExitStack() as stack:
        log = None if logdir is None else stack.enter_context(EventLog(logdir))
        for step, file in enumerate(files):
            try:
                photo = photos.read(file)
                image = network.preparation(photo)[None].to(device)
            except photos.PhotoError as error:
                yield error
                continue
            except ValueError as error:
                yield photos.PhotoError(f"cannot use {file}: {error}")
                continue
            maps = looker(image)
            for name in maps:
                if log is not None:
                    log.add_picture(name, maps.grid(name, colormap=colormap, labels=labels or None).tensor, step)
                if folder is not None:
                    _enlarged(maps, name, colormap, labels, Path(folder) / stems[step] / f"{name}.png")
            if folder is not None:
                page = overview(photo, network, maps, colormap)
                photos.write(page, Path(folder) / f"{stems[step]}.png")
            yield file, list(maps)
        if log is not None and histograms:
            for layer in looker.layers:
                for name, parameter in network.model.get_submodule(layer).named_parameters(recurse=False):
                    log.add_histogram(f"{layer}.{name}", parameter)


def overview(photo: np.ndarray, network: Network, maps: Maps, colormap: str = "viridis") -> np.ndarray:
    """One labelled picture, RGB uint8 ``[H, W, 3]``: what the network saw of ``photo``, and maps of up to seven layers.

    The layers are spread over the network's depth; of each the 16 maps of largest variance are shown.
    """
    seen = _seen(photo, network)
    panels = [figures.Panel(seen, "The photograph", f"{seen.shape[1]} x {seen.shape[0]} pixels")]
    names = list(maps)
    count = min(_PANELS - 1, len(names))
    spread = np.linspace(0, len(names) - 1, count).round().astype(int)
    for name in [names[i] for i in spread]:
        strongest = _strongest(maps[name], 16)
        pixels = 1 if strongest.ndim == 3 else max(1, round(128 / strongest.shape[-1]))
        shown = Maps({name: strongest}).grid(name, colormap=colormap, scale=pixels)
        size = " x ".join(map(str, maps[name].shape[2:]))
        panels.append(figures.Panel(np.asarray(shown), name, f"{maps[name].shape[1]} maps of {size}", smooth=False))
    rows = [panels[i : i + 4] for i in range(0, len(panels), 4)]
    title = f"What {network.name} sees"
    page = figures.compose(
        rows, title, "Of each layer, the 16 maps that vary most; each map from its least to its greatest"
    )
    return np.asarray(page)


def _enlarged(maps: Maps, name: str, colormap: str, labels: bool, path: Path) -> None:
    plain = maps.grid(name, colormap=colormap)
    scale = max(1, _TILE_PIXELS // max(plain.shape[:2]))
    maps.grid(name, colormap=colormap, labels=labels or None, scale=scale).save(path)


def _strongest(maps: Tensor, count: int) -> Tensor:
    """The maps of the first image that vary most, in the order of their channels: ``[1, count, *map]``."""
    spread = maps[0].flatten(1).float().var(1)
    order = spread.topk(min(count, len(spread))).indices.sort().values
    return maps[:1, order]


def _seen(photo: np.ndarray, network: Network) -> np.ndarray:
    """The part of ``photo`` that the network was shown."""
    height, width = photo.shape[:2]
    left, top, right, bottom = (round(edge) for edge in network.preparation.box(height, width))
    return photo[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
