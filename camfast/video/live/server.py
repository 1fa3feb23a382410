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
from .guest import MOST_BYTES, decoded
from .hub import Hub
from .keys import Keys
from .page import page

__all__ = ["application"]

_TICK = 2.0  # seconds of silence after which a viewer is told that the server is there
_KINDS = {1: "the browser's webcam", 2: "a photograph"}  # by the first byte of what a browser sends


def application(hub: Hub, local: bool = True, keys: Keys | None = None) -> Any:
    """The aiohttp application: ``/`` is the page, ``/ws`` its WebSocket.

    Args:
        hub: explains the frames.
        local: refuses requests for other names than this machine's, so that no foreign page can reach it by a trick of
            names; pages of another origin are refused always.
        keys: who may look and who may steer; None: everyone.
    """
    web = require("aiohttp.web", "live")
    keys = keys or Keys()
    sockets: set[Any] = set()

    def check(request: Any) -> str:
        """The request's key."""
        host = urlsplit(f"//{request.host}").hostname
        if local and host not in ("localhost", "127.0.0.1", "::1"):
            raise web.HTTPForbidden(text="this page is for this machine alone")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another page may not look in here")
        key = request.query.get("key", "")
        if not keys.may_watch(key):
            raise web.HTTPForbidden(text="this page needs the key that stands in the address camfast printed")
        return key

    async def show(request: Any) -> Any:
        check(request)
        policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        headers = {
            "Content-Security-Policy": policy + "media-src blob: mediastream:; connect-src 'self'",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        return web.Response(text=page(), content_type="text/html", headers=headers)

    async def tell_all() -> None:
        """Every viewer's controls show the same."""
        for other in list(sockets):
            with contextlib.suppress(ConnectionError, RuntimeError, asyncio.TimeoutError):
                await asyncio.wait_for(other.send_json({"type": "settings", **hub.controls()}), 1)

    async def view(request: Any) -> Any:
        steers = keys.may_steer(check(request))
        socket = web.WebSocketResponse(heartbeat=20, max_msg_size=MOST_BYTES, compress=False)
        await socket.prepare(request)
        sockets.add(socket)
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closing
                loop.call_soon_threadsafe(news.set)

        sender, mine = None, None  # mine: the stream of pictures that this viewer sends
        try:
            await asyncio.to_thread(hub.join, notify)
            await socket.send_json({"type": "choices", "steers": steers, **hub.choices()})
            sender = asyncio.create_task(_send(socket, hub, news, steers))
            async for message in socket:
                if message.type not in (web.WSMsgType.TEXT, web.WSMsgType.BINARY):
                    continue
                for control, error in await _act(hub, message.data, steers):
                    await socket.send_json({"type": "problem", "control": control, "problem": reason(error)})
                if message.type == web.WSMsgType.TEXT:
                    await tell_all()
                else:
                    mine = hub.guest
        finally:
            sockets.discard(socket)
            if mine is not None and hub.guest is mine and mine.name == _KINDS[1]:
                hub.dismiss()  # its webcam sends no more
            if sender is not None:
                sender.cancel()
            await asyncio.shield(asyncio.to_thread(hub.leave, notify))
        return socket

    async def close(app: Any) -> None:
        for socket in list(sockets):
            with contextlib.suppress(Exception):
                await asyncio.wait_for(socket.close(code=1001), 2)

    app = web.Application()
    app.add_routes([web.get("/", show), web.get("/ws", view)])
    app.on_shutdown.append(close)
    return app


async def _act(hub: Hub, data: str | bytes, steers: bool) -> list[tuple[str, Exception]]:
    """Does what a viewer's message says: settings, "cancel", "restart", "dismiss", or a picture.

    Returns the controls that could not act, and why.
    """
    if not steers:
        return [("", ValueError("you may watch here, not steer"))]
    if isinstance(data, bytes):
        try:
            if not data or data[0] not in _KINDS:
                raise ValueError("expected a picture of a webcam or a photograph")
            picture = await asyncio.to_thread(decoded, data[1:])
            await asyncio.to_thread(hub.receive, picture, _KINDS[data[0]])
        except Exception as error:  # whatever it is, the viewer is told and goes on looking
            return [("source", error)]
        return []
    try:
        changes = json.loads(data)
    except ValueError as error:
        return [("", error)]
    actions = {"cancel": hub.cancel, "restart": hub.begin, "dismiss": hub.dismiss}
    if isinstance(changes, dict) and set(changes) <= set(actions):
        for name in changes:
            await asyncio.to_thread(actions[name])
        return []
    failed: list[tuple[str, Exception]] = []
    for name, change in changes.items() if isinstance(changes, dict) else [("", changes)]:
        try:
            hub.set({name: change} if isinstance(changes, dict) else change)
        except Exception as error:
            failed.append((name, error))
    return failed


async def _send(socket: Any, hub: Hub, news: asyncio.Event, steers: bool) -> None:
    """Sends what is new, one frame after the other; what comes while one is on its way is skipped."""
    seen, told, state, refused, progress, guest = 0, ("", ""), None, len(hub.refused), None, hub.guest
    with contextlib.suppress(ConnectionError):
        while not socket.closed:
            if hub.problem != told:
                told = hub.problem
                await socket.send_json({"type": "problem", "control": told[0], "problem": told[1]})
                await socket.send_json({"type": "settings", **hub.controls()})
            if len(hub.refused) != refused:
                refused = len(hub.refused)
                await socket.send_json({"type": "choices", "steers": steers, **hub.choices()})
            if hub.guest is not guest:
                guest = hub.guest
                await socket.send_json({"type": "settings", **hub.controls()})
            if hub.progress is not progress:
                progress = hub.progress
                await socket.send_json({"type": "progress", "progress": progress})
            shown = hub.latest
            if shown is not None and shown.number > seen:
                seen = shown.number
                await socket.send_json({"type": "frame", **shown.facts})
                await socket.send_bytes(shown.jpeg)
            if hub.state is not state:  # after the picture: the last one may be of a stream that has ended
                state = hub.state
                await socket.send_json({"type": "state", "state": state.kind, "sentence": state.sentence})
            try:
                await asyncio.wait_for(news.wait(), _TICK)
            except (TimeoutError, asyncio.TimeoutError):
                await socket.send_json({"type": "tick"})
            news.clear()
