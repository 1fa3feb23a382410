"""camfast live and viewers that misbehave: what one of them does wrong is that one's alone, and the stream goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("aiohttp")

import aiohttp
from live_server import Served, receive, until
from PIL import Image

from camfast.video.live import Keys
from camfast.video.live.wishes import Wishes

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def picture(width, height, format="PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(data, format)
    return data.getvalue()


async def goes_on(hub, frames=3):
    number = hub.latest.number if hub.latest else 0
    await until(lambda: hub.latest is not None and hub.latest.number > number + frames)


async def none_told(socket, seconds=0.5):
    """Nothing is told to be wrong for some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = await socket.receive(timeout=20)
        assert message.type != aiohttp.WSMsgType.TEXT or json.loads(message.data)["type"] != "problem", message.data


LONG = {
    "many classes": [0] * 17,
    "thousands of names": ["cat"] * 1000,
    "one wrong among good ones": ["cat", "no class of this network"],
    "a number beyond all": 10**40,
    "nested": [[[0]]],
}


@pytest.mark.parametrize("targets", LONG.values(), ids=LONG)
def test_targets_of_one_viewer(hub, targets):
    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            await bad.send_json({"targets": targets})
            problem = await receive(bad, "problem")
            assert problem["control"] == "targets" and problem["problem"]
            assert (await receive(bad, "settings"))["targets"] is None
            await none_told(good)
            await goes_on(hub)
            assert hub.engine.targets is None and hub.state.kind == "live"

    asyncio.run(run())


class Picky:
    """An engine that takes a setting and fails with every frame as long as it is there."""

    def __init__(self, hub, fails):
        self.engine = hub.engine
        self.fails, self.tried = fails, 0

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def __setattr__(self, name, value):
        if name in ("engine", "fails", "tried"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.engine, name, value)

    def __call__(self, frame):
        if self.fails(self.engine):
            self.tried += 1
            raise RuntimeError("the network cannot do this")
        return self.engine(frame)


def test_a_setting_that_no_frame_can_be_shown_with(hub):
    """It is taken back, its viewer alone is told, and what another one has set stays."""
    hub.engine = Picky(hub, lambda engine: engine.smooth > 0.9)

    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            for alpha in (0.25, 0.5, 0.75):
                await asyncio.gather(bad.send_json({"smooth": 0.95}), good.send_json({"alpha": alpha}))
                problem = await receive(bad, "problem")
                assert problem["control"] == "smooth" and "cannot do this" in problem["problem"]
                await until(lambda alpha=alpha: hub.engine.alpha == alpha and hub.engine.smooth == 0)
                await goes_on(hub)
                assert hub.engine.alpha == alpha
            await none_told(good)
            while (await receive(bad, "settings"))["smooth"] != 0:
                pass
            assert hub.engine.tried >= 3

    asyncio.run(run())


def test_a_picture_that_cannot_be_written(hub, monkeypatch):
    """Of sixteen pictures side by side a JPEG may be too wide: the classes are taken back, and the stream goes on."""
    from camfast.video.live import hub as module

    def narrow(overlay):
        if overlay.ndim == 4:
            raise OSError("encoder error")
        return picture(64, 48, "JPEG")

    monkeypatch.setattr(module, "jpeg", narrow)

    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            await socket.send_json({"targets": [0, 1, 2]})
            assert (await receive(socket, "problem"))["control"] == "targets"
            await goes_on(hub)
            assert hub.engine.targets is None

    asyncio.run(run())


def test_a_picture_that_the_network_cannot_take(hub):
    """The stream comes back in place of a viewer's picture that fails."""

    class Strict(Picky):
        def __call__(self, frame):
            if frame.shape[0] < 4:
                raise RuntimeError("too small")
            return self.engine(frame)

    hub.engine = Strict(hub, None)

    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            await bad.send_bytes(b"\2" + picture(64, 2))
            problem = await receive(bad, "problem")
            assert problem["control"] == "source" and "too small" in problem["problem"]
            await until(lambda: hub.guest is None and hub.state.kind == "live")
            await goes_on(hub)

    asyncio.run(run())


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_pictures_of_odd_sizes(hub, size):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            await socket.send_bytes(b"\2" + picture(*size))
            await until(lambda: hub.state.sentence == "a photograph")  # it was explained
            await socket.send_json({"dismiss": True})
            await until(lambda: hub.guest is None)
            await goes_on(hub)
            assert hub.state.kind == "live"

    asyncio.run(run())


WORDS = {
    "deep": "[" * 16_000,
    "deep names": '{"a":' * 3_000,
    "no JSON": "{",
    "NUL": "\0",
    "a lone number": "7",
    "too long": json.dumps({"targets": "x" * 20_000}),
    "a long name": json.dumps({"layers": "x" * 15_000}),
    "many names": json.dumps({f"n{i}": i for i in range(900)}),
    "digits": '{"targets": ' + "9" * 5_000 + "}",
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_messages_that_are_no_settings(hub, words):
    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            await bad.send_str(words)
            problem = await receive(bad, "problem")
            assert 0 < len(problem["problem"]) < 500
            await bad.send_json({"alpha": 0.75})  # it may go on
            await until(lambda: hub.engine.alpha == 0.75)
            await none_told(good, 0.2)

    asyncio.run(run())


def test_a_message_beyond_the_limit_ends_its_viewer_alone(hub):
    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            with contextlib.suppress(ConnectionError):  # the server does not read it to its end
                await bad.send_bytes(bytes((1 << 23) + 10))
            end = time.monotonic() + 20
            while not bad.closed:
                assert time.monotonic() < end
                await bad.receive(timeout=20)
            await goes_on(hub)
            await receive(good, "picture")

    asyncio.run(run())


def test_a_flood_slows_nobody_else(hub, monkeypatch):
    """However many messages come, so many are read in a second; what is left waits in the viewer's own connection."""
    from camfast.video.live import server

    monkeypatch.setattr(server, "_RATE", 50)
    heard = []
    as_it_was = hub.set
    monkeypatch.setattr(hub, "set", lambda changes, who=None: heard.append(who) or as_it_was(changes, who))

    async def run():
        async with Served(hub) as served, served.look() as bad, served.look() as good:
            await receive(good, "picture")
            begun = time.monotonic()
            flood = asyncio.create_task(send(bad))
            await asyncio.sleep(0.5)
            await good.send_json({"alpha": 0.125})
            await until(lambda: hub.engine.alpha == 0.125, 10)
            await goes_on(hub)
            assert len(heard) <= 50 * (time.monotonic() - begun) + 3
            flood.cancel()

    async def send(socket):
        for _ in range(5000):
            await socket.send_json({"smooth": 0.5})

    asyncio.run(run())


def test_only_so_many_may_look(hub, monkeypatch):
    from camfast.video.live import server

    monkeypatch.setattr(server, "_MOST_VIEWERS", 2)

    async def run():
        async with Served(hub) as served:
            async with served.look() as first, served.look():
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await served.look()
                assert refused.value.status == 503
                await receive(first, "picture")
            async with served.look() as again:
                await receive(again, "picture")

    asyncio.run(run())


HOSTS = {
    "localhost": 200,
    "LocalHost:{port}": 200,
    "127.0.0.1:{port}": 200,
    "[::1]:{port}": 200,
    "[": 403,
    "[::1": 403,
    "]": 403,
    "": 403,
    "example.com": 403,
    "localhost.example.com": 403,
    "localhost@example.com": 403,
    "user@localhost": 403,
    "localhost/../x": 403,
    "localhost?x": 403,
    "localhost#x": 403,
    "localhost:": 403,
    "localhost:port": 403,
    "localhost.": 403,
    "127.1": 403,
    "2130706433": 403,
    "0x7f.1": 403,
    "127.0.0.1.example.com": 403,
    "::1": 403,
}


def test_host_headers(hub):
    async def run():
        async with Served(hub) as served:
            port = served.address.rpartition(":")[2]
            for host, status in HOSTS.items():
                for path in ("/", "/ws"):
                    got = await status_of(port, f"GET {path} HTTP/1.1\r\nHost: {host.format(port=port)}\r\n\r\n")
                    assert got == (status if path == "/" or status == 403 else 400), (host, path)
            assert await status_of(port, "GET / HTTP/1.0\r\n\r\n") == 403
            for origin in ("http://[", "null", "http://localhost:1", "file://", "http://localhost@example.com"):
                head = f"GET /ws HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\n\r\n"
                assert await status_of(port, head) == 403, origin
            for origin in (f"http://localhost:{port}", f"https://LOCALHOST:{port}"):
                head = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\n\r\n"
                assert await status_of(port, head) == 200, origin

    asyncio.run(run())


async def status_of(port, head):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(head.encode())
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return int(line.split()[1])


def test_who_only_watches_cannot_send_pictures_nor_words(hub):
    keys = Keys.made(local=True, read_only=True)

    async def run():
        async with Served(hub, keys=keys) as served, served.look() as watcher:
            await receive(watcher, "picture")
            for words in WORDS.values():
                await watcher.send_str(words)
                assert "watch" in (await receive(watcher, "problem"))["problem"]
            await watcher.send_bytes(b"\2" + picture(8, 8))
            assert "watch" in (await receive(watcher, "problem"))["problem"]
            assert hub.guest is None

    asyncio.run(run())


def test_wishes():
    wishes = Wishes()
    assert not wishes and wishes.take() is None and wishes.over({"a": 1}) == {"a": 1}
    wishes.add("one", "a", 2)
    wishes.add("two", "a", 3)
    wishes.add("one", "b", 4)  # the newest words are the last to be fulfilled
    assert wishes.over({"a": 1}) == {"a": 2, "b": 4}
    assert wishes.take() == ("two", {"a": 3}) and wishes.take() == ("one", {"a": 2, "b": 4}) and not wishes
    wishes.add("one", "a", 5)
    wishes.forget("one")
    assert not wishes
