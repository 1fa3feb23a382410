"""The command line: ``camfast image | detect | video | live | features | export | ...``.

A command's module holds its arguments and what it does, and is imported when the command is asked for. What answers
without one, ``camfast --help`` and ``camfast --version``, imports neither torch nor numpy.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import require
from ..version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "image": "explain photographs: one overlay each, and a table of the classes",
    "detect": "explain the boxes that a detector finds in photographs, one by one",
    "dataset": "explain a whole data set into Parquet shards; goes on where it was stopped",
    "report": "show a data set run as a page: where the network is wrong, and why",
    "video": "explain a video: a clip of as many frames, with its sound",
    "live": "explain a camera, a file or a stream while it runs, on a page",
    "features": "show what a network's layers make of photographs",
    "evaluate": "measure how good methods' heat is on photographs, in a table and a picture",
    "export": "write a network with its heat to one file, for ONNX Runtime, OpenVINO or AOTInductor",
    "layers": "list a network's layers, and mark the one that is explained",
    "demo": "explain one photograph with two things in it, in one labelled picture",
    "gallery": "explain photographs by every method, in one labelled picture",
    "info": "versions, libraries, devices: what a bug report needs",
}
"""Each command, which is a module of this package, and what its help says of it."""


NEEDS = {
    "image": {"PIL": "vision", "tqdm": "vision"},
    "detect": {"PIL": "vision", "tqdm": "vision"},
    "dataset": {"pyarrow": "dataset", "PIL": "dataset", "tqdm": "dataset"},
    "video": {"av": "video", "PIL": "vision", "tqdm": "vision"},
    "live": {"aiohttp.web": "live", "av": "video", "PIL": "vision"},
    "features": {"PIL": "vision", "tqdm": "vision"},
    "evaluate": {"PIL": "vision", "tqdm": "vision"},
    "export": {"PIL": "vision"},
    "report": {"pyarrow": "dataset", "PIL": "vision", "tqdm": "vision"},
    "demo": {"PIL": "demo"},
    "gallery": {"PIL": "demo"},
}
"""The packages that commands need beside the network's own, and the extras that bring them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: what follows ``camfast``; None takes those of the process.

    Returns:
        The exit code. 0: all is well; 1: some photographs could not be done; 2: nothing could, for the reason printed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is written out, and no error
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        needed = NEEDS.get(options.command, {})
        if getattr(options, "logdir", None) is not None:
            needed = {**needed, "tensorboard": "tensorboard"}
        for package, extra in needed.items():
            require(package, extra)  # before a network is loaded
        return options.run(options)
    except BrokenPipeError:
        raise
    except (ValueError, ImportError, OSError) as error:
        print(f"camfast {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="camfast", description="Class-activation maps: where a network looked, at the price of a prediction."
    )
    parser.add_argument("--version", action="version", version=f"camfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Command)
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".").module = name
    return parser


class _Command(argparse.ArgumentParser):
    """A command's parser, which gets its arguments from the command's module when it is asked to parse."""

    module: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module is not None:
            if "--passive" in (sys.argv[1:] if args is None else args):
                os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read where OpenMP starts, which is where torch is imported
            module = importlib.import_module(f".{self.module}", __package__)
            self.module = None
            module.add_arguments(self)
            self.add_argument(
                "--passive",
                action="store_true",
                help="threads of the CPU sleep between two operations, where they would spin: for a busy machine",
            )
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)
