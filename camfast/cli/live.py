"""``camfast live``: its arguments."""

from __future__ import annotations

import argparse

from ..video.live.serve import serve
from ..video.realtime import Realtime
from .arguments import add_heat, add_network, add_smooth, add_threads
from .detectors import add_stream_detector, stream

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast live``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a camera's number, a file, an RTSP or HTTP address, or browser: the webcam of who looks",
    )
    parser.add_argument("--loop", action="store_true", help="start a file again at its end")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="who may look: 0.0.0.0 is everyone with the key (%(default)s)"
    )
    parser.add_argument(
        "--port", type=_port, default=8000, metavar="P", help="the page's, 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--read-only", action="store_true", help="print a second address, whose viewers watch and do not steer"
    )
    add_threads(parser)
    add_network(parser, fit="stretch")
    add_stream_detector(parser)
    add_smooth(add_heat(parser, None, "grad_cam; of a detector layer_cam"))


def run(options: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C; the network is loaded after the cheap checks.

    Raises ``VideoError`` for a missing file, ``OSError`` where the port cannot be had.
    """

    def engine() -> Realtime:
        return stream(options)[1]

    source = None if options.source == "browser" else options.source
    serve(engine, source, loop=options.loop, host=options.host, port=options.port, read_only=options.read_only)
    return 0


def _port(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and int(word) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {word!r}")
    return int(word)
