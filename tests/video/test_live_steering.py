"""camfast live: slow methods, methods that cannot work, who may steer, pictures of the browser, and camfast.serve."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("aiohttp")

import aiohttp
from live_server import NAMES, Served, Webcam, becomes, receive, sleepy_hub, small_hub, until
from PIL import Image

import camfast
from camfast.video import VideoError
from camfast.video.live import Keys, Source

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_a_slow_method_shows_its_progress_and_is_cancelled(clip):
    hub = sleepy_hub(clip)

    async def run():
        async with Served(hub) as served:
            async with served.look() as socket:
                await receive(socket, "picture")
                await socket.send_json({"method": "score_cam"})
                while (progress := await receive(socket, "progress"))["progress"] is None:
                    pass
                first = progress["progress"]
                assert first["method"] == "score_cam" and first["seconds"] > 0
                second = (await receive(socket, "progress"))["progress"]
                assert second["seconds"] > first["seconds"]
                start = time.monotonic()
                await socket.send_json({"cancel": True})
                while "cancelled" not in (problem := await receive(socket, "problem"))["problem"]:
                    pass
                assert problem["control"] == "method" and time.monotonic() - start < 3
                assert hub.engine.method == "grad_cam" and not hub.paused
                number = hub.latest.number
                await until(lambda: hub.latest.number > number + 2)  # it goes on

                await socket.send_json({"method": "score_cam"})
                while (await receive(socket, "progress"))["progress"] is None:
                    pass
                await socket.send_json({"method": "layer_cam"})  # another choice calls it off too
                number = hub.latest.number
                await until(lambda: hub.latest.number > number)
                await socket.send_json({"method": "score_cam"})
                await until(lambda: hub.progress is not None)
                start = time.monotonic()
            await until(lambda: not hub.running)  # and so does leaving
            assert time.monotonic() - start < 3
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in hub.engine._original.modules())

    asyncio.run(run())


def test_methods_that_cannot_work_are_not_offered(hub):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            before = await receive(socket, "choices")
            assert "legrad" in [method["name"] for method in before["methods"]]
            await until(lambda: not hub._untried, 60)
            while "legrad" in [method["name"] for method in (await receive(socket, "choices"))["methods"]]:
                pass
            assert hub.refused.get("legrad")  # it needs attention
            assert "grad_cam" not in hub.refused and hub.engine.method == "grad_cam"
            for method in hub.choices()["methods"]:  # what is offered works
                hub.engine.attempt(np.zeros((48, 64, 3), np.uint8), method["name"])

    asyncio.run(run())


@pytest.mark.parametrize("read_only", [False, True])
def test_keys(hub, read_only):
    keys = Keys.made(local=False, read_only=read_only)

    async def run():
        async with Served(hub, keys=keys) as served:
            for wrong in ("", "?key=", "?key=wrong", "?key=é"):
                for path in ("/", "/ws"):
                    async with served.session.get(f"{served.address}{path}{wrong}") as answer:
                        assert answer.status == 403
            async with served.session.get(f"{served.address}/?key={keys.watch}") as answer:
                assert answer.status == 200
            async with (
                served.session.ws_connect(f"{served.address}/ws?key={keys.steer}") as steerer,
                served.session.ws_connect(f"{served.address}/ws?key={keys.watch}") as viewer,
            ):
                assert (await receive(steerer, "choices"))["steers"] is True
                assert (await receive(viewer, "choices"))["steers"] is not read_only
                await receive(viewer, "picture")
                await viewer.send_json({"alpha": 0.75})
                if read_only:
                    assert "watch" in (await receive(viewer, "problem"))["problem"]
                    await viewer.send_bytes(b"\1" + jpeg())
                    assert "watch" in (await receive(viewer, "problem"))["problem"]
                    assert hub.engine.alpha == 0.6 and hub.guest is None
                else:
                    await until(lambda: hub.engine.alpha == 0.75)
                await steerer.send_json({"alpha": 0.25})
                await until(lambda: hub.engine.alpha == 0.25)

    asyncio.run(run())


def test_keys_of_each_kind():
    assert Keys.made(local=True, read_only=False) == Keys(None, None)
    alone = Keys.made(local=False, read_only=False)
    assert alone.watch == alone.steer and len(alone.steer) >= 16
    read = Keys.made(local=True, read_only=True)
    assert read.watch is None and read.may_watch("") and not read.may_steer("") and read.may_steer(read.steer)


def jpeg(size=(80, 60), color=(200, 30, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize("source", [True, False])
def test_pictures_of_the_browser(clip, source):
    hub = small_hub(clip)
    hub.source = hub.source if source else None

    async def run():
        async with Served(hub) as served, served.look() as socket:
            if not source:
                assert "webcam" in await becomes(socket, "opening")
            else:
                assert (await receive(socket, "picture")).shape == (48, 64, 3)
            await socket.send_bytes(b"\2" + jpeg())
            while (await receive(socket, "picture")).shape != (60, 80, 3):
                pass
            await asyncio.sleep(0.3)
            number = hub.latest.number  # a photograph is explained once, and again when a control moves
            await asyncio.sleep(0.3)
            assert hub.latest.number == number
            await socket.send_json({"targets": "boat"})
            await until(lambda: hub.latest.number > number)
            assert hub.controls()["guest"] == "a photograph"

            for wrong in (b"", b"\2no picture", b"\7" + jpeg(), b"\2" + jpeg()[:40]):
                await socket.send_bytes(wrong)
                problem = await receive(socket, "problem")
                assert problem["control"] == "source" and problem["problem"]

            for n in range(5):
                await socket.send_bytes(b"\1" + jpeg((100, 50), (n * 40, 0, 0)))
                await asyncio.sleep(0.05)
            while (await receive(socket, "picture")).shape != (50, 100, 3):
                pass
            async with served.look() as other:
                assert (await receive(other, "picture")).shape == (50, 100, 3)
                await socket.close()  # its webcam goes with it
                await until(lambda: hub.guest is None)
                if source:
                    while (await receive(other, "picture")).shape != (48, 64, 3):
                        pass
                else:
                    assert "webcam" in await becomes(other, "opening")

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [ImportError("no module named 'pi_heif'"), RuntimeError("a broken AVIF"), KeyError(7)]
)
def test_a_reader_that_raises_anything_sends_no_viewer_away(hub, error, monkeypatch):
    """Ultralytics puts its own in the place of ``Image.open``, which raises ImportError for what is no picture."""

    def fail(file):
        raise error

    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            monkeypatch.setattr(Image, "open", fail)
            await socket.send_bytes(b"\2a picture")
            problem = await receive(socket, "problem")
            assert problem["control"] == "source" and "expected a picture" in problem["problem"]
            monkeypatch.undo()
            await receive(socket, "picture")  # it goes on

    asyncio.run(run())


def test_a_control_that_raises_anything_sends_no_viewer_away(hub, monkeypatch):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            monkeypatch.setattr(type(hub.engine), "alpha", property(lambda self: 0.5, lambda self, value: {}[value]))
            await socket.send_json({"alpha": 0.75})
            problem = await receive(socket, "problem")
            assert problem["control"] == "alpha" and "0.75" in problem["problem"]
            monkeypatch.undo()
            await receive(socket, "picture")

    asyncio.run(run())


def test_a_large_photograph_is_made_smaller(clip):
    from camfast.video.live.guest import decoded

    assert decoded(jpeg((4000, 1000))).shape == (480, 1920, 3)
    with pytest.raises(ValueError, match="32 million"):
        decoded(jpeg((8000, 5000)))


def test_the_terminal_says_what_is_wrong(clip):
    said = []
    hub = small_hub(clip)
    hub._say = said.append

    async def run():
        async with Webcam(clip, count=10) as camera:
            hub.source = Source(f"{camera.address}/stream")
            async with Served(hub) as served, served.look() as socket:
                await becomes(socket, "retrying")
                await becomes(socket, "live")
        assert said[0].startswith("explaining http://") and "has ended" in said[1] and said[1].endswith("in 1 s")
        assert said[2] == said[0]

    asyncio.run(run())


def test_a_slow_source_backs_off(clip, monkeypatch):
    """Each try that gives no frame is followed by a longer wait; the last one stays."""
    monkeypatch.setattr("camfast.video.live.hub._DELAYS", (0.1, 0.2, 0.4))
    said = []
    hub = small_hub(clip)
    hub._say, hub.source = said.append, Source("http://127.0.0.1:9/none")

    async def run():
        async with Served(hub) as served, served.look():
            await until(lambda: len(said) >= 5)

    asyncio.run(run())
    assert [text.rpartition(" in ")[2] for text in said[:5]] == ["0.1 s", "0.2 s", "0.4 s", "0.4 s", "0.4 s"]


SERVE = """
import sys, torch, camfast
from torch import nn
torch.manual_seed(0)
layers = [nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
engine = camfast.Realtime(nn.Sequential(*layers).eval(), input_size=64, class_names=["cat", "dog", "boat", "tree"])
camfast.serve(engine, sys.argv[1], port=0, read_only=True)
"""


def test_serve(clip):
    where = Path(camfast.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(clip)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=where,
    )

    async def look(address):
        where, _, key = address.partition("?")
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{where}ws?{key}") as socket:
            offered = await receive(socket, "choices")
            assert offered["layers"] == ["0", "1", "2", "3", "4"]
            assert offered["classes"] == NAMES and offered["steers"] is bool(key)
            assert "ended" in await becomes(socket, "ended")

    try:
        steer, watch = process.stdout.readline().split()[2], process.stdout.readline().split()[2]
        assert "?key=" in steer and "key" not in watch
        asyncio.run(look(steer))
        asyncio.run(look(watch))
        process.send_signal(2)
        _, errors = process.communicate(timeout=20)
        assert "camfast live: the clip has ended" in errors  # the terminal says it too
    finally:
        process.kill()
        process.wait()


def test_serve_refuses_early(clip):
    with pytest.raises(VideoError, match="no such file"):
        camfast.serve(lambda: pytest.fail("the engine is made too early"), "missing.mp4")
