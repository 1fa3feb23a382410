"""``camfast live``: its arguments, and the server's life."""

from __future__ import annotations

import argparse
import socket
from typing import Any

from ..extras import require
from ..realtime import Realtime
from .hub import Hub
from .server import application
from .source import Source

__all__ = ["add_arguments", "run"]

LOCAL = ("localhost", "127.0.0.1", "::1")


def add_arguments(live: argparse.ArgumentParser) -> None:
    """Adds what is the stream's and the page's to the parser."""
    live.add_argument("source", metavar="SOURCE", help="a camera's number, a file, or an RTSP or HTTP address")
    live.add_argument("--loop", action="store_true", help="start a file again at its end")
    live.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="who may look: 0.0.0.0 is everyone (%(default)s)"
    )
    live.add_argument(
        "--port", type=int, default=8000, metavar="P", help="the page's port, 0 for a free one (%(default)s)"
    )


def run(options: argparse.Namespace, network: Any, targets: Any) -> int:
    """Serves the page until Ctrl-C."""
    web = require("aiohttp.web", "app")
    require("av", "video")
    source = Source(options.source, options.loop)
    source.check()
    engine = Realtime(
        network.model,
        options.method,
        options.layer,
        targets,
        colormap=options.colormap,
        alpha=options.alpha,
        smooth=options.smooth,
        preparation=network.preparation,
        class_names=network.class_names,
    )

    layers = [name for name, _ in network.model.named_modules() if name]

    def ready(line: str) -> None:
        del line
        print(f"camfast live: http://{options.host}:{port()}/ (Ctrl-C ends it)", flush=True)

    try:
        listening = socket.create_server((options.host, options.port), family=_family(options.host))
    except OSError as error:
        raise OSError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from error

    def port() -> int:
        return listening.getsockname()[1]

    app = application(Hub(source, engine, layers), local=options.host in LOCAL)
    web.run_app(app, sock=listening, print=ready, access_log=None, shutdown_timeout=3)
    return 0


def _family(host: str) -> Any:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
