"""``camfast evaluate``: how good methods' heat is on photographs, in a table and a picture."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import metrics
from ..errors import closest, or_rather, require
from ..metrics.comparison import Comparison
from ..pictures import photos
from ..pictures.frames import Box
from ..targets import Targets, TopK
from ..zoo import Network
from . import objects
from .arguments import add_network, add_photos, load_network, method_name, positive, wanted_targets
from .documents import save_text
from .gallery import QUICK

__all__ = ["add_arguments", "run"]

METHODS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "eigen_cam", "random_cam"]
NAMES = list(metrics.METRICS)
OF_OBJECTS = [name for name, metric in metrics.METRICS.items() if metric.objects]
USUAL = ["insertion", "deletion", "road", "average_drop", "average_increase", "adcc"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast evaluate``."""
    add_photos(parser)
    parser.add_argument("--methods", nargs="+", type=method_name, default=METHODS, metavar="M", help=_usual(METHODS))
    parser.add_argument(
        "--metrics",
        nargs="+",
        type=metric_name,
        metavar="K",
        help=f"some of {', '.join(NAMES)} ({' '.join(USUAL)}; with --boxes also {' '.join(OF_OBJECTS)})",
    )
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="where the objects are, CSV, JSON or Parquet: path, left, top, right, bottom in pixels of the photograph; "
        f"needed by {', '.join(OF_OBJECTS)}",
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="CLASS",
        help="a class by name or number, repeatable, or top5 for the five best (the best one)",
    )
    parser.add_argument("--layer", action="append", metavar="L", help="layer to explain, repeatable")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for table.csv, values.csv (a row per map) and comparison.png"
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="B", help="changed photographs per pass (as many as fit)"
    )
    add_network(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table and writes the files; the exit code is 1 where some photographs could not be read."""
    folder = None if options.output is None else Path(options.output).expanduser()
    files, errors = photos.find(options.photos, without=[] if folder is None else [folder])
    for error in errors:
        _tell(error)
    if not files:
        return 1
    wanted = options.metrics or [*USUAL, *(OF_OBJECTS if options.boxes else ())]
    lacking = [name for name in wanted if name in OF_OBJECTS and not options.boxes]
    if lacking:
        raise ValueError(f"{', '.join(lacking)} needs to know where the objects are: give --boxes FILE")
    table = objects.read(options.boxes, options.photos) if options.boxes else None
    network = load_network(options)
    read, images, crops = _read(files, network)
    if not read:
        return 1
    boxes = None if table is None else objects.on_input(table, read, crops, network.preparation.crop, _tell)
    compared = metrics.compare(
        network.model,
        options.methods,
        images.to(next(network.model.parameters()).device),
        wanted,
        _targets(wanted_targets(options.target, network.class_names), len(images)),
        layers=options.layer,
        boxes=boxes,
        options={name: QUICK[name] for name in options.methods if name in QUICK},
        class_names=network.class_names,
        batch_size=options.batch_size,
        progress=True,
    )
    for name, why in compared.skipped.items():
        print(f"camfast evaluate: {name}: {why}", file=sys.stderr)
    print(compared.table)
    count = len(read)
    print(f"\n{count} photograph{'s' * (count != 1)}, {options.model}; heat of {_explained(options.target)}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_text(compared.table.to_csv(), folder / "table.csv")
        save_text(_values(compared, read), folder / "values.csv")
        picture = compared.save(folder / "comparison.png", _frames(images, network))
        print(f"written: {folder / 'table.csv'}, {folder / 'values.csv'}, {picture}")
    return 1 if errors or len(read) < len(files) else 0


def metric_name(word: str) -> str:
    """``word`` as :data:`camfast.metrics.METRICS` spells it."""
    name = word.strip().casefold().replace("-", "_").replace(" ", "_")
    if name in NAMES:
        return name
    raise argparse.ArgumentTypeError(f"no metric is called {word!r}{or_rather(closest(name, NAMES), NAMES)}")


def _usual(names: Sequence[str]) -> str:
    return f"methods, as camfast image --method takes them ({' '.join(names)})"


def _read(files: Sequence[Path], network: Network) -> tuple[list[Path], Tensor, list[Box]]:
    """The photographs that can be read, the network's input made of each, ``[N, 3, h, w]``, and where on them it lies."""
    tqdm = require("tqdm", "vision").tqdm
    read, images, crops = [], [], []
    for file in tqdm(files, unit="photo", desc="read", disable=len(files) == 1, file=sys.stderr):
        try:
            photo = photos.read(file)
            images.append(network.preparation(photo))
        except photos.PhotoError as error:
            _tell(error)
        except ValueError as error:
            _tell(f"cannot use {file}: {error}")
        else:
            read.append(file)
            crops.append(network.preparation.box(*photo.shape[:2]))
    return read, torch.stack(images) if images else torch.zeros(0), crops


def _targets(wanted: TopK | list[int] | None, count: int) -> Targets:
    """One class for all photographs, or the same few of each."""
    if not isinstance(wanted, list):
        return wanted
    return wanted[0] if len(wanted) == 1 else torch.tensor(wanted).expand(count, -1)


def _explained(words: Sequence[str] | None) -> str:
    return "each one's best class" if words is None else ", ".join(words)


def _frames(images: Tensor, network: Network) -> Tensor:
    """What the network saw, uint8 ``[N, h, w, 3]``."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.preparation.mean, network.preparation.std))
    return ((images.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _values(compared: Comparison, read: Sequence[Path]) -> str:
    """A row per photograph, target, method and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photo", "class", "method", "metric", "value"])
    for method, of_metrics in compared.values.items():
        result = compared.results[method]
        for metric, values in of_metrics.items():
            rows = values if values.ndim == 2 else values.unsqueeze(1)
            for n, (file, row) in enumerate(zip(read, rows.tolist(), strict=True)):
                for k, value in enumerate(row):
                    label = result.label(n, k if values.ndim == 2 else None)
                    writer.writerow([file, label, method, metric, value])
    return text.getvalue()


def _tell(error: object) -> None:
    print(f"camfast evaluate: {error}", file=sys.stderr)
