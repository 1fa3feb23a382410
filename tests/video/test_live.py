"""camfast live: viewers share one computation, controls act, and nothing runs when no one looks."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("av")
pytest.importorskip("aiohttp")

import aiohttp
import av
from clips import make, moving
from live_server import NAMES, Served, Webcam, becomes, receive, until
from PIL import Image
from rtsp_server import RtspCamera

import camfast
from camfast.cli.main import main
from camfast.video import VideoError
from camfast.video.live import Hub, Source

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_the_page_is_whole(hub):
    async def run():
        async with Served(hub) as served:
            async with served.session.get(served.address) as answer:
                text = await answer.text()
                assert answer.status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "camfast" in text and "http://" not in text and "https://" not in text  # nothing from elsewhere
            foreign = {"Origin": "http://example.com"}
            async with served.session.get(f"{served.address}/ws", headers=foreign) as answer:
                assert answer.status == 403
            async with served.session.get(served.address, headers={"Host": "example.com"}) as answer:
                assert answer.status == 403
        assert not hub.running  # a page without a viewer costs nothing

    asyncio.run(run())


def test_frames_scores_and_controls(hub):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            offered = await receive(socket, "choices")
            assert (
                offered["classes"] == NAMES
                and "grad_cam" in [method["name"] for method in offered["methods"]]
                and "0" in offered["layers"]
            )
            facts = await receive(socket, "frame")
            assert facts["layers"] == ["0"] or facts["layers"] == ["1"]
            assert len(facts["scores"]) == 4 and sum(score for _, score in facts["scores"]) == pytest.approx(
                1, abs=1e-3
            )
            first = await receive(socket, "picture")
            assert first.shape == (48, 64, 3)
            seen = [await receive(socket, "picture") for _ in range(4)]
            assert any(np.abs(first.astype(int) - picture).mean() > 0.5 for picture in seen)

            await socket.send_json({"targets": "boat", "method": "layer_cam", "colormap": "gray", "alpha": 1.0})
            await receive(socket, "settings")
            hub_settings = hub.standing()
            assert (hub_settings["targets"], hub_settings["method"], hub_settings["alpha"]) == (2, "layer_cam", 1.0)
            for _ in range(3):
                facts = await receive(socket, "frame")
            assert facts["explained"][0][0] == "boat"
            picture = (await receive(socket, "picture")).astype(int)
            assert np.abs(picture[..., 0] - picture[..., 2]).max() <= 3  # gray heat alone

            for wrong in [
                {"targets": "house"},
                {"smooth": 2},
                {"method": "no_cam"},
                {"speed": 3},
                {"layers": ["9"]},
                [1],
            ]:
                await socket.send_json(wrong)
                problem = await receive(socket, "problem")
                assert problem["problem"]
            await receive(socket, "picture")  # it goes on

    asyncio.run(run())


def test_a_control_that_fits_no_frame_is_taken_back(hub):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            await socket.send_json({"layers": ["4"]})  # the linear layer has no map
            assert (await receive(socket, "problem"))["problem"]
            await receive(socket, "picture")
            assert hub.engine.layers is None and hub.running

    asyncio.run(run())


def test_pause(hub):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            await receive(socket, "picture")
            await socket.send_json({"paused": True})
            assert (await receive(socket, "settings"))["paused"] is True
            await asyncio.sleep(0.3)
            number = hub.latest.number
            await asyncio.sleep(0.3)
            assert hub.latest.number == number
            # The frame that stands is drawn anew when a control moves, and shown to who comes later.
            await socket.send_json({"alpha": 1.0, "colormap": "gray", "targets": "tree"})
            await until(lambda: hub.latest.number > number)
            async with served.look() as late:
                facts, picture = await receive(late, "frame"), await receive(late, "picture")
                assert facts["number"] == hub.latest.number and facts["explained"][0][0] == "tree"
                assert np.abs(picture[..., 0].astype(int) - picture[..., 2]).max() <= 3
            number = hub.latest.number
            await socket.send_json({"paused": False})
            await until(lambda: hub.latest.number > number + 2)

    asyncio.run(run())


def test_viewers_share_one_computation_and_leave_it_when_they_go(hub):
    calls = []
    engine = hub.engine.__class__.__call__

    def counted(self, frame):
        calls.append(threading.get_ident())
        return engine(self, frame)

    async def run():
        async with Served(hub) as served:
            async with served.look() as one, served.look() as two:
                numbers = []
                for socket in (one, two):
                    numbers.append({(await receive(socket, "frame"))["number"] for _ in range(6)})
                assert len(set(calls)) == 1  # one thread explains
                assert hub.latest.number >= max(map(max, numbers)) and len(calls) <= hub.latest.number + 1
            await until(lambda: not hub.running)
            count = len(calls)
            await asyncio.sleep(0.2)
            assert len(calls) == count
            async with served.look() as again:  # and it starts anew
                await receive(again, "picture")
        assert not hub.running

    hub.engine.__class__ = type("Counted", (hub.engine.__class__,), {"__call__": counted})
    asyncio.run(run())


def test_a_slow_viewer_slows_nobody(clip):
    """A viewer that reads nothing: its frames pile up in no queue, the other one gets every frame in time."""
    big = clip.parent / "big.mp4"
    noise = list(np.random.default_rng(0).integers(0, 255, (10, 360, 640, 3), np.uint8))
    make(big, noise, rate=20)
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    hub = Hub(Source(str(big), loop=True), camfast.Realtime(model, input_size=64))

    async def run():
        async with Served(hub) as served:
            slow_reader, slow_writer = await asyncio.open_connection(
                "127.0.0.1", int(served.address.rpartition(":")[2])
            )
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            head = f"GET /ws HTTP/1.1\r\nHost: {served.address[7:]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            slow_writer.write((head + key + "\r\n").encode())
            slow_writer.transport.pause_reading()
            async with served.look() as quick:
                numbers = [(await receive(quick, "frame"))["number"] for _ in range(40)]
            assert numbers[-1] - numbers[0] <= 2 * len(numbers)  # few are skipped, none waits
            slow_writer.transport.abort()
            await until(lambda: not hub.running)
        del slow_reader

    asyncio.run(run())


def test_a_source_that_ends_says_so(clip, hub):
    hub.source = Source(str(clip))

    async def run():
        async with Served(hub) as served, served.look() as socket:
            assert "ended" in await becomes(socket, "ended")
            await until(lambda: not hub.running)
            number = hub.latest.number
            await socket.send_json({"restart": True})  # from the beginning
            await becomes(socket, "live")
            await until(lambda: hub.latest.number > number)

    asyncio.run(run())


def test_sources_that_cannot_be_opened(hub, capsys):
    with pytest.raises(VideoError, match="no such file"):
        Source("missing.mp4").check()
    assert main(["live", "missing.mp4"]) == 2
    assert "no such file" in capsys.readouterr().err
    hub.source = Source("977")

    async def run():
        async with Served(hub) as served, served.look() as socket:
            sentence = await becomes(socket, "retrying")
            assert "cannot open camera 977" in sentence and sentence.endswith("trying again in 1 s")
            assert "trying again in 2 s" in await becomes(socket, "retrying")

    if sys.platform == "linux":
        asyncio.run(run())


def test_addresses(clip, hub):
    """A file behind an address keeps its pace and is looped; a camera behind one plays until it breaks off."""

    async def run():
        async with Webcam(clip) as camera:
            hub.source = Source(f"{camera.address}/clip.mp4", loop=True)
            async with Served(hub) as served, served.look() as socket:
                await receive(socket, "frame")
                start, number = time.monotonic(), hub.latest.number
                while hub.latest.number < number + 24:  # of 20 in the clip, at 20 a second
                    await receive(socket, "frame")
                assert 0.9 < time.monotonic() - start < 6

            hub.source = Source(f"{camera.address}/stream")
            async with Served(hub) as served, served.look() as socket:
                first = await receive(socket, "picture")
                seen = [await receive(socket, "picture") for _ in range(4)]
                assert first.shape == (48, 64, 3) and any((first != picture).any() for picture in seen)
                assert camera.viewers == 1
            await until(lambda: camera.viewers == 0)

        async with Webcam(clip, count=15) as camera:
            hub.source = Source(f"{camera.address}/stream")
            async with Served(hub) as served, served.look() as socket:
                await receive(socket, "picture")
                sentence = await becomes(socket, "retrying")
                assert "has ended" in sentence and "trying again in 1 s" in sentence
                number = hub.latest.number
                camera.count = 10**6  # plugged in again
                await becomes(socket, "live")
                await until(lambda: hub.latest.number > number + 15)

        hub.source = Source("http://127.0.0.1:9/none")
        async with Served(hub) as served, served.look() as socket:
            assert "cannot read http://127.0.0.1:9/none" in await becomes(socket, "retrying")

    asyncio.run(run())


def test_rtsp(hub):
    async def run():
        with RtspCamera(moving(12), count=60) as camera:
            hub.source = Source(camera.address)
            async with Served(hub) as served, served.look() as socket:
                first = await receive(socket, "picture")
                seen = [await receive(socket, "picture") for _ in range(4)]
                assert first.shape == (48, 64, 3) and any((first != picture).any() for picture in seen)
                assert "has ended" in await becomes(socket, "retrying")  # the camera hangs up
        assert not hub.running

    asyncio.run(run())


def test_a_camera_that_falls_silent_is_given_up(clip, hub, monkeypatch):
    monkeypatch.setattr("camfast.video.live.source._SILENCE", 1.0)

    async def run():
        async with Webcam(clip, count=15, silent=True) as camera:
            hub.source = Source(f"{camera.address}/stream")
            async with Served(hub) as served, served.look() as socket:
                await receive(socket, "picture")
                assert "has ended" in await becomes(socket, "retrying")
        assert not hub.running

    asyncio.run(run())


def test_what_a_control_may_not_be(hub):
    before = hub.standing()
    numbers = [None, True, -1, 4, 10**30, 1.5, float("nan"), float("inf"), "", "x", [], [[]], {}, {"a": 1}, [None], [9]]
    for name in ("targets", "method", "layers", "colormap", "alpha", "smooth"):
        for value in numbers:
            try:
                hub.set({name: value})
            except (ValueError, TypeError) as error:
                assert str(error)
            else:
                json.dumps(hub.standing())
                hub.set({key: value for key, value in before.items() if key != "paused"})
    for wrong in (None, [], "x", 3, {"": 1}, {"close": 1}):
        with pytest.raises((ValueError, TypeError), match="expected settings"):
            hub.set(wrong)
    assert hub.standing() == before


def test_several_classes_stand_side_by_side(hub):
    async def run():
        async with Served(hub) as served, served.look() as socket:
            await socket.send_json({"targets": ["cat", "tree"]})
            await until(lambda: hub.latest is not None and len(hub.latest.facts["explained"]) == 2)
            while (await receive(socket, "picture")).shape != (48, 128, 3):
                pass
            await socket.send_json({"targets": "cat"})
            while (await receive(socket, "picture")).shape != (48, 64, 3):
                pass

    asyncio.run(run())


def test_the_command(clip, tmp_path, capsys):
    """Serves until Ctrl-C, and then has gone at once; a port that is taken is told in words."""
    torchvision = pytest.importorskip("torchvision")
    weights = tmp_path / "weights.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), weights)
    command = ["live", str(clip), "--loop", "--model", "squeezenet1_1", "--weights", str(weights), "--port"]
    where = Path(camfast.__file__).parents[1]  # from the source tree an installed wheel would be hidden
    arguments = [sys.executable, "-m", "camfast", *command, "0"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=where)

    async def look(address):
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}ws") as socket:
            offered = await receive(socket, "choices")
            assert len(offered["classes"]) == 1000 and "features.0" in offered["layers"]
            assert (await receive(socket, "picture")).shape == (48, 64, 3)
            process.send_signal(signal.SIGINT)
            async for _ in socket:
                pass

    try:
        line = process.stdout.readline()
        address = line.split()[2]
        assert address.startswith("http://127.0.0.1:")
        port = address.rstrip("/").rpartition(":")[2]
        assert main([*command, port]) == 2
        assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
        asyncio.run(look(address))
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["empty", "words", "sound", "cut short", "photograph", "ten bits"])
def test_sources_of_all_kinds(kind, hub, tmp_path):
    """What can be shown is shown, in a loop; of what cannot, the page says why, and no thread stays."""
    file = tmp_path / "source.mp4"
    if kind == "empty":
        file.touch()
    elif kind == "words":
        file.write_text("no video\n" * 100)
    elif kind == "sound":
        with av.open(str(file), "w") as container:
            tone = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    elif kind == "photograph":
        file = tmp_path / "source.jpg"
        Image.fromarray(moving(1)[0]).save(file)
    elif kind == "cut short":
        make(file, moving(30), rate=30, options={"movflags": "frag_keyframe+empty_moov"})
        file.write_bytes(file.read_bytes()[:-400])
    else:
        make(file, moving(6), rate=30, codec="libx265", pixels="yuv420p10le")
    hub.source = Source(str(file), loop=True)

    async def run():
        async with Served(hub) as served, served.look() as socket:
            if kind in ("empty", "words", "sound"):
                problem = await becomes(socket, "failed")
                assert file.name in problem and "\n" not in problem
                await until(lambda: not hub.running)
            else:
                for _ in range(3):
                    assert (await receive(socket, "picture")).shape == (48, 64, 3)

    asyncio.run(run())
