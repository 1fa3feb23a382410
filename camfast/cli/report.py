"""``camfast report``: a data set run as a folder of HTML."""

from __future__ import annotations

import argparse

from ..reports import report
from .arguments import add_colormap, whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast report``."""
    parser.add_argument("out", metavar="OUT", help="the folder of a run of camfast dataset")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the report (OUT/report)")
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="where the objects are, CSV, JSON or Parquet: path, left, top, right, bottom in pixels",
    )
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="where relative paths of the run start (%(default)s)"
    )
    parser.add_argument(
        "--pictures",
        type=whole,
        default=400,
        metavar="N",
        help="small pictures to write at most (%(default)s); all others are drawn from the photographs themselves",
    )
    parser.add_argument("--title", help="of the page")
    add_colormap(parser, "inferno")


def run(options: argparse.Namespace) -> int:
    """Writes the report, and prints where it is."""
    page = report(
        options.out,
        options.output,
        boxes=options.boxes,
        root=options.root,
        pictures=options.pictures,
        title=options.title,
        colormap=options.colormap,
    )
    print(page)
    return 0
