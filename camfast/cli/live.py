"""``camfast live``: its arguments, and the server's life."""

from __future__ import annotations

import argparse
import socket

from ..errors import require
from ..video.live.hub import Hub
from ..video.live.server import application
from ..video.live.source import Source
from .arguments import add_heat, add_network, add_smooth, load_network, stream_engine

__all__ = ["add_arguments", "run"]

LOCAL = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast live``."""
    parser.add_argument("source", metavar="SOURCE", help="a camera's number, a file, or an RTSP or HTTP address")
    parser.add_argument("--loop", action="store_true", help="start a file again at its end")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="who may look: 0.0.0.0 is everyone (%(default)s)"
    )
    parser.add_argument(
        "--port", type=_port, default=8000, metavar="P", help="the page's, 0 for a free one (%(default)s)"
    )
    add_network(parser, fit="stretch")
    add_smooth(add_heat(parser))


def run(options: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C; the network is loaded after the cheap checks.

    Raises ``VideoError`` for a missing file, ``OSError`` where the port cannot be had.
    """
    web = require("aiohttp.web", "live")
    require("av", "video")
    source = Source(options.source, options.loop)
    source.check()
    with _listening(options.host, options.port) as listening:
        network = load_network(options)
        engine = stream_engine(options, network)
        hub = Hub(source, engine, [name for name, _ in network.model.named_modules() if name])
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/"

        def ready(_: str) -> None:
            print(f"camfast live: {address} (Ctrl-C ends it)", flush=True)

        app = application(hub, local=options.host in LOCAL)
        web.run_app(app, sock=listening, print=ready, access_log=None, shutdown_timeout=3)
    return 0


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _port(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and int(word) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {word!r}")
    return int(word)
