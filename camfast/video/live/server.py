"""The page and its WebSocket, by aiohttp: one small dependency that serves both and tests both.

Each frame is one JSON message and one JPEG. A viewer is sent the next frame when the last one has left for it, and then
the newest: a slow one skips frames. JPEG frames need no video codec in the browser and no buffer: 30 frames/s of 720p
are about 3 MB/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

from ...errors import reason, require
from .guest import MOST_BYTES, decoded
from .hub import Hub
from .keys import Keys
from .page import page

__all__ = ["application"]

_TICK = 2.0  # seconds of silence after which a viewer is told that the server is there
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_MOST_VIEWERS = 64
_MOST_WORDS = 1 << 14  # bytes of a message that is no picture
_MOST_TOLD = 400  # characters of what a viewer is told to be wrong
_RATE = 100  # messages of a viewer that are read in a second; the others wait in its browser
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
        host = request.headers.get("Host", "").casefold()
        if local and not _LOCAL.fullmatch(host):
            raise web.HTTPForbidden(text="this page is for this machine alone")
        origin = request.headers.get("Origin")
        if origin is not None and origin.casefold() not in (f"http://{host}", f"https://{host}"):
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

    async def view(request: Any) -> Any:
        steers = keys.may_steer(check(request))
        if len(sockets) >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VIEWERS} viewers are looking already")
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
            sender = asyncio.create_task(_send(socket, hub, news, steers, notify))
            async for message in socket:
                began = loop.time()
                if message.type not in (web.WSMsgType.TEXT, web.WSMsgType.BINARY):
                    continue
                for control, error in await _act(hub, message.data, steers, notify):
                    await socket.send_json({"type": "problem", "control": control, "problem": _told(error)})
                if message.type == web.WSMsgType.TEXT:  # a control that did not act goes back to where it was
                    await socket.send_json({"type": "settings", **hub.controls()})
                elif hub.guest is not None and hub.guest.who is notify:
                    mine = hub.guest
                # At most half of the time is one viewer's: the others' messages come in between.
                await asyncio.sleep(max(1 / _RATE, loop.time() - began))
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


async def _act(hub: Hub, data: str | bytes, steers: bool, who: Any) -> list[tuple[str, Exception]]:
    """Does what the message of the viewer ``who`` says: settings, "cancel", "restart", "dismiss", or a picture.

    Returns the controls that could not act, and why.
    """
    if not steers:
        return [("", ValueError("you may watch here, not steer"))]
    if isinstance(data, bytes):
        try:
            if not data or data[0] not in _KINDS:
                raise ValueError("expected a picture of a webcam or a photograph")
            picture = await asyncio.to_thread(decoded, data[1:])
            await asyncio.to_thread(hub.receive, picture, _KINDS[data[0]], who)
        except Exception as error:  # whatever it is, the viewer is told and goes on looking
            return [("source", error)]
        return []
    if len(data) > _MOST_WORDS:
        return [("", ValueError(f"expected a message of up to {_MOST_WORDS} characters, got {len(data)}"))]
    try:
        changes = json.loads(data)
    except (ValueError, RecursionError):  # RecursionError: deeply nested
        return [("", ValueError("expected settings by name, as JSON"))]
    actions = {"cancel": hub.cancel, "restart": hub.begin, "dismiss": hub.dismiss}
    if isinstance(changes, dict) and set(changes) <= set(actions):
        for name in changes:
            await asyncio.to_thread(actions[name])
        return []
    failed: list[tuple[str, Exception]] = []
    for name, change in changes.items() if isinstance(changes, dict) else [("", changes)]:
        try:
            hub.set({name: change} if isinstance(changes, dict) else change, who)
        except Exception as error:
            failed.append((name, error))
    return failed


def _told(error: Exception) -> str:
    sentence = reason(error)
    return sentence if len(sentence) <= _MOST_TOLD else f"{sentence[:_MOST_TOLD]} ..."


async def _send(socket: Any, hub: Hub, news: asyncio.Event, steers: bool, who: Any) -> None:
    """Sends ``who`` what is new, one frame after the other; what comes while one is on its way is skipped."""
    seen, told, state, refused, progress, controls = 0, None, None, len(hub.refused), None, hub.controls()
    with contextlib.suppress(ConnectionError):
        while not socket.closed:
            problem = hub.problems.get(who)
            if problem is not told and problem is not None:
                await socket.send_json({"type": "problem", "control": problem[0], "problem": problem[1]})
                await socket.send_json({"type": "settings", **hub.controls()})
            told = problem
            if len(hub.refused) != refused:
                refused = len(hub.refused)
                await socket.send_json({"type": "choices", "steers": steers, **hub.choices()})
            if (standing := hub.controls()) != controls:  # every viewer's controls show the same
                controls = standing
                await socket.send_json({"type": "settings", **controls})
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
