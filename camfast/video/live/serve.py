"""A page over an engine of one's own, in one call."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import require
from ..realtime import Realtime
from .hub import Hub
from .keys import Keys
from .server import application
from .source import Source

__all__ = ["serve"]

LOCAL = ("localhost", "127.0.0.1", "::1")


def serve(
    engine: Realtime | Callable[[], Realtime],
    source: str | int | None = None,
    *,
    loop: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    read_only: bool = False,
    layers: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serves a page on which ``engine`` explains ``source``, until Ctrl-C::

        camfast.serve(camfast.Realtime(model, class_names=names), "street.mp4", loop=True)

    Its address is printed. Where others than this machine can reach it, or it is for reading alone, the address holds a
    key. Nothing is computed while no one looks.

    Args:
        engine: a :class:`camfast.Realtime`, or a function that makes it, called once the cheap checks are done.
        source: a camera's number, a file, or an RTSP or HTTP address; None: what a viewer's browser sends, its webcam or
            a photograph.
        loop: start a file again at its end.
        host: who may look: ``"127.0.0.1"`` this machine, ``"0.0.0.0"`` everyone who can reach it and has the key.
        port: the page's; 0 takes a free one.
        read_only: two addresses are printed: who has the one with the key may steer, who has the other may watch.
        layers: names that the page offers; None: all of the model.
        say: called with each sentence for the terminal; None prints them.

    Raises:
        ImportError: without the packages of ``camfast[live]``.
        OSError: where the port cannot be had.
        VideoError: for a file that is missing.
    """
    web = require("aiohttp.web", "live")
    require("av", "video")
    frames = None if source is None else Source(str(source), loop)
    if frames is not None:
        frames.check()
    say = say or _print
    with _listening(host, port) as listening:
        engine = engine if isinstance(engine, Realtime) else engine()
        hub = Hub(frames, engine, engine.layer_names() if layers is None else layers, say)
        local = host in LOCAL
        keys = Keys.made(local, read_only)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"

        def ready(_: str) -> None:
            watch = address + (f"?key={keys.watch}" if keys.watch else "")
            steer = address + (f"?key={keys.steer}" if keys.steer else "")
            print(f"camfast live: {steer} (Ctrl-C ends it)", flush=True)
            if watch != steer:
                print(f"camfast live: {watch} to watch alone", flush=True)

        app = application(hub, local, keys)
        web.run_app(app, sock=listening, print=ready, access_log=None, shutdown_timeout=3)


def _print(sentence: str) -> None:
    print(f"camfast live: {sentence}", file=sys.stderr, flush=True)


def _listening(host: str, port: int) -> Any:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
