"""camfast live: viewers share one computation, controls act, and nothing runs when no one looks."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("av")
pytest.importorskip("aiohttp")

import aiohttp
from aiohttp import web
from clips import make, moving
from PIL import Image

import camfast
from camfast.cli import main
from camfast.live import Hub, Source, application
from camfast.video import VideoError

NAMES = ["cat", "dog", "boat", "tree"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("live") / "clip.mp4", moving(20), rate=20)


@pytest.fixture
def hub(clip):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    model = nn.Sequential(*layers).eval()
    engine = camfast.Realtime(model, input_size=64, class_names=NAMES)
    return Hub(Source(str(clip), loop=True), engine, [name for name, _ in model.named_modules() if name])


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("camfast-")] == []


class Served:
    """The application on a free port, in an event loop of the test's own."""

    def __init__(self, hub: Hub, local: bool = True) -> None:
        self.app = application(hub, local)

    async def __aenter__(self):
        self.runner = web.AppRunner(self.app, shutdown_timeout=3)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = self.runner.addresses[0][1]
        self.address = f"http://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.runner.cleanup()

    def look(self, **options):
        return self.session.ws_connect(f"{self.address}/ws", **options)


async def receive(socket, kind):
    """The next message of a kind: "picture", or the type of a JSON message."""
    while True:
        message = await socket.receive(timeout=20)
        if message.type == aiohttp.WSMsgType.BINARY:
            if kind == "picture":
                return np.asarray(Image.open(io.BytesIO(message.data)))
            continue
        assert message.type == aiohttp.WSMsgType.TEXT, message
        content = json.loads(message.data)
        if content["type"] == kind:
            return content


async def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


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
            assert offered["classes"] == NAMES and "grad_cam" in offered["methods"] and "0" in offered["layers"]
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
            assert "ended" in (await receive(socket, "problem"))["problem"]

    asyncio.run(run())


def test_sources_that_cannot_be_opened(hub, capsys):
    with pytest.raises(VideoError, match="no such file"):
        Source("missing.mp4").check()
    assert main(["live", "missing.mp4"]) == 2
    assert "no such file" in capsys.readouterr().err
    hub.source = Source("977")

    async def run():
        async with Served(hub) as served, served.look() as socket:
            assert "cannot open camera 977" in (await receive(socket, "problem"))["problem"]

    if sys.platform == "linux":
        asyncio.run(run())


class Webcam:
    """What a camera on the network does: ``/clip.mp4`` is a file, ``/stream`` gives JPEGs without end, or ``count``."""

    def __init__(self, clip, count=10**6, silent=False) -> None:
        self.clip, self.count, self.silent = clip, count, silent
        self.viewers = 0

    async def __aenter__(self):
        app = web.Application()
        app.add_routes([web.get("/stream", self.stream), web.get("/clip.mp4", lambda _: web.FileResponse(self.clip))])
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def stream(self, request):
        answer = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace;boundary=part"})
        await answer.prepare(request)
        self.viewers += 1
        pictures = []
        for pixels in moving(10):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "JPEG")
            pictures.append(data.getvalue())
        try:
            for i in range(self.count):
                head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(pictures[i % 10])}\r\n\r\n"
                await answer.write(head.encode() + pictures[i % 10] + b"\r\n")
                await asyncio.sleep(0.04)
            while self.silent:
                await asyncio.sleep(0.05)
        finally:
            self.viewers -= 1
        return answer


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
                problem = (await receive(socket, "problem"))["problem"]
                assert "has ended" in problem and "reload" in problem
                await until(lambda: not hub.running)
                camera.count = 10**6
                async with served.look() as again:  # plugged in again
                    await receive(again, "picture")

        hub.source = Source("http://127.0.0.1:9/none")
        async with Served(hub) as served, served.look() as socket:
            assert "cannot read http://127.0.0.1:9/none" in (await receive(socket, "problem"))["problem"]

    asyncio.run(run())


def test_a_camera_that_falls_silent_is_given_up(clip, hub, monkeypatch):
    monkeypatch.setattr("camfast.live.source._SILENCE", 1.0)

    async def run():
        async with Webcam(clip, count=15, silent=True) as camera:
            hub.source = Source(f"{camera.address}/stream")
            async with Served(hub) as served, served.look() as socket:
                await receive(socket, "picture")
                assert "has ended" in (await receive(socket, "problem"))["problem"]
                await until(lambda: not hub.running)

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
    process = subprocess.Popen([sys.executable, "-m", "camfast", *command, "0"], stdout=subprocess.PIPE, text=True)

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


# In a browser


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_in_a_browser(hub, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    ready, done = threading.Event(), threading.Event()
    address = []

    async def serve():
        async with Served(hub) as served:
            address.append(served.address)
            ready.set()
            await asyncio.to_thread(done.wait)

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    try:
        ready.wait()
        wait = WebDriverWait(browser, 30)
        browser.get(address[0])
        picture = browser.find_element(By.ID, "picture")
        wait.until(lambda _: browser.execute_script("return arguments[0].naturalWidth", picture) == 64)
        first = picture.get_attribute("src")
        wait.until(lambda _: picture.get_attribute("src") != first)
        assert len(browser.find_elements(By.CSS_SELECTOR, ".score")) == 4
        assert "frames/s" in browser.find_element(By.ID, "facts").text

        Select(browser.find_element(By.ID, "method")).select_by_value("hires_cam")
        wait.until(lambda _: hub.engine.method == "hires_cam")
        Select(browser.find_element(By.ID, "colormap")).select_by_value("viridis")
        wait.until(lambda _: hub.engine.colormap == "viridis")
        browser.find_element(By.ID, "target").send_keys("tree\n")
        wait.until(lambda _: hub.engine.targets == 3)
        browser.find_element(By.ID, "auto").click()
        wait.until(lambda _: hub.engine.targets is None)
        browser.find_element(By.ID, "fix").click()
        wait.until(lambda _: hub.engine.targets is not None)
        slide = "arguments[0].value = 0.9; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(slide, browser.find_element(By.ID, "alpha"))
        wait.until(lambda _: hub.engine.alpha == 0.9)
        browser.find_element(By.ID, "pause").click()
        wait.until(lambda _: hub.paused)
        wait.until(lambda _: browser.find_element(By.ID, "pause").text == "Go on")
        browser.find_element(By.ID, "target").clear()
        browser.find_element(By.ID, "target").send_keys("no such class\n")
        wait.until(lambda _: "no such class" in browser.find_element(By.ID, "problem").text)
        assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    finally:
        done.set()
        server.join(20)
    assert not server.is_alive()
