"""The page and its WebSocket, by aiohttp: one small dependency that serves both and tests both.

Each frame is one JSON message and one JPEG. A viewer is sent the next frame when the last one has left for it, and then
the newest: a slow one skips frames. JPEG frames need no video codec in the browser and no buffer: 30 frames/s of 720p
are about 3 MB/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import urlsplit

from ...errors import reason, require
from .hub import Hub
from .page import PAGE

__all__ = ["application"]


def application(hub: Hub, local: bool = True) -> Any:
    """The aiohttp application: ``/`` is the page, ``/ws`` its WebSocket.

    ``local`` refuses requests for other names than this machine's, so that no foreign page can reach it by a trick of
    names; pages of another origin are refused always.
    """
    web = require("aiohttp.web", "live")
    sockets: set[Any] = set()

    def check(request: Any) -> None:
        host = urlsplit(f"//{request.host}").hostname
        if local and host not in ("localhost", "127.0.0.1", "::1"):
            raise web.HTTPForbidden(text="this page is for this machine alone")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another page may not look in here")

    async def page(request: Any) -> Any:
        check(request)
        policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        headers = {"Content-Security-Policy": policy + "connect-src 'self'", "Cache-Control": "no-store"}
        return web.Response(text=PAGE, content_type="text/html", headers=headers)

    async def view(request: Any) -> Any:
        check(request)
        socket = web.WebSocketResponse(heartbeat=20, max_msg_size=1 << 16, compress=False)
        await socket.prepare(request)
        sockets.add(socket)
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closing
                loop.call_soon_threadsafe(news.set)

        sender = None
        try:
            await socket.send_json({"type": "choices", **hub.choices()})
            await asyncio.to_thread(hub.join, notify)
            sender = asyncio.create_task(_send(socket, hub, news))
            async for message in socket:
                if message.type != web.WSMsgType.TEXT:
                    continue
                try:
                    hub.set(json.loads(message.data))
                except (ValueError, TypeError) as error:
                    await socket.send_json({"type": "problem", "problem": reason(error)})
                for other in list(sockets):  # every viewer's controls show the same
                    with contextlib.suppress(ConnectionError, RuntimeError):
                        await asyncio.wait_for(other.send_json({"type": "settings", **hub.standing()}), 1)
        finally:
            sockets.discard(socket)
            if sender is not None:
                sender.cancel()
            await asyncio.shield(asyncio.to_thread(hub.leave, notify))
        return socket

    async def close(app: Any) -> None:
        for socket in list(sockets):
            with contextlib.suppress(Exception):
                await asyncio.wait_for(socket.close(code=1001), 2)

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/ws", view)])
    app.on_shutdown.append(close)
    return app


async def _send(socket: Any, hub: Hub, news: asyncio.Event) -> None:
    """Sends what is new, one frame after the other; what comes while one is on its way is skipped."""
    seen, told = 0, ""
    with contextlib.suppress(ConnectionError):
        while not socket.closed:
            if hub.problem != told:
                told = hub.problem
                await socket.send_json({"type": "problem", "problem": told})
                await socket.send_json({"type": "settings", **hub.standing()})
            shown = hub.latest
            if shown is not None and shown.number > seen:
                seen = shown.number
                await socket.send_json({"type": "frame", **shown.facts})
                await socket.send_bytes(shown.jpeg)
            await news.wait()
            news.clear()
