"""``camfast dataset``: its arguments, and what it prints. The work is done in :mod:`camfast.dataset`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..dataset import DatasetRun, explain_dataset
from ..methods import METHODS
from .arguments import add_network, load_network, method_name, not_negative, positive, wanted_targets

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast dataset``."""
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTOS",
        help="a folder (its subfolders are classes), files and patterns, a table (.csv, .parquet), or tar shards",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the results; goes on in it")
    add_network(parser)
    heat = parser.add_argument_group("the heat")
    heat.add_argument(
        "--method", type=method_name, default="grad_cam", metavar="M", help=f"{', '.join(METHODS)} (%(default)s)"
    )
    heat.add_argument("--layer", action="append", metavar="L", help="layer to explain, repeatable (found)")
    heat.add_argument(
        "--target",
        action="append",
        metavar="CLASS",
        help="a class by name or number, repeatable, or top5 (the prediction, and the label where it differs)",
    )
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--folders",
        choices=["auto", "classes", "ignore"],
        default="auto",
        help="what subfolders are: classes by their names, or in order where there are as many; classes in order; no "
        "labels (%(default)s)",
    )
    labels.add_argument("--path-column", default="path", metavar="NAME", help="of a table (%(default)s)")
    labels.add_argument("--label-column", metavar="NAME", help="of a table: class numbers or names (label)")
    work = parser.add_argument_group("the work")
    work.add_argument("--batch", type=positive, metavar="B", help="pictures per pass (16 on the CPU, 64 on a GPU)")
    work.add_argument(
        "--workers", type=_count, metavar="N", help="processes that decode, 0 for none (half of the processors)"
    )
    work.add_argument("--shard", type=positive, default=512, metavar="N", help="pictures per shard (%(default)s)")
    work.add_argument(
        "--ray", nargs="?", const=True, default=False, metavar="ADDRESS", help="on Ray: of this machine, or a cluster's"
    )
    work.add_argument("--actors", type=positive, metavar="N", help="on Ray: how many hold the model")


def run(options: argparse.Namespace) -> int:
    """Explains the data set; the exit code is 1 where some pictures could not be read."""
    network = load_network(options)
    done = explain_dataset(
        network,
        options.photos,
        options.output,
        method=options.method,
        layers=options.layer,
        targets=wanted_targets(options.target, network.class_names),
        folders=options.folders,
        path_column=options.path_column,
        label_column=options.label_column,
        batch=options.batch,
        workers=options.workers,
        shard=options.shard,
        ray=options.ray,
        actors=options.actors,
    )
    print(_summary(options, done))
    if done.unreadable:
        listed = Path(done.out) / "unreadable.csv"
        print(f"camfast dataset: {_counted(done.unreadable)} could not be read: {listed}", file=sys.stderr)
    return 1 if done.unreadable else 0


def _summary(options: argparse.Namespace, done: DatasetRun) -> str:
    """What was done, and how fast."""
    before = f", {done.before} before" if done.before else ""
    rate = f" ({done.rate:.1f} a second)" if done.images else ""
    lines = [f"{_counted(done.images)} in {done.seconds:.1f} s{rate}{before}: {done.out}"]
    if done.layer is not None:
        lines.append(f"{options.method} of {options.model} at {done.layer}; {done.rows} maps")
    if done.labelled:
        lines.append(f"{done.right} of {done.labelled} with a known class predicted right")
    if done.blank:
        lines.append(f"{done.blank} of {done.rows} maps are blank: nothing at the layer speaks for the class")
    return "\n".join(lines)


def _counted(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _count(word: str) -> int:
    value = not_negative(word)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {word!r}")
    return int(value)
