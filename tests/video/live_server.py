"""The application of ``camfast live`` served inside a test, and a camera on the network."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from pathlib import Path

import aiohttp
import numpy as np
import torch
from aiohttp import web
from clips import make, moving
from PIL import Image
from torch import nn

import camfast
from camfast.video.live import Hub, Keys, Source, application

__all__ = [
    "NAMES",
    "Served",
    "Webcam",
    "becomes",
    "receive",
    "sleepy_hub",
    "small_clip",
    "small_hub",
    "threads_left",
    "until",
]

NAMES = ["cat", "dog", "boat", "tree"]


def small_clip(folder: Path) -> Path:
    return make(folder / "clip.mp4", moving(20), rate=20)


def small_hub(clip: Path) -> Hub:
    """A network of four classes, for frames of ``clip``, again and again."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    model = nn.Sequential(*layers).eval()
    engine = camfast.Realtime(model, input_size=64, class_names=NAMES)
    return Hub(Source(str(clip), loop=True), engine, [name for name, _ in model.named_modules() if name])


class Sleepy(nn.Module):
    """Takes its time over the masked images of Score-CAM, in many small operations."""

    def forward(self, x):
        if len(x) > 1:
            for _ in range(400):
                time.sleep(0.02)
                x = x + 0.0
        return x


def sleepy_hub(clip) -> Hub:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    model = nn.Sequential(Sleepy(), *layers).eval()
    engine = camfast.Realtime(model, layers="2", input_size=64, class_names=NAMES)
    return Hub(Source(str(clip), loop=True), engine, ["1", "2"])


def threads_left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("camfast-")]


class Served:
    """The application on a free port, in an event loop of the test's own."""

    def __init__(self, hub: Hub, local: bool = True, keys: Keys | None = None, port: int = 0) -> None:
        self.port = port
        self.app = application(hub, local, keys)

    async def __aenter__(self):
        self.runner = web.AppRunner(self.app, shutdown_timeout=3)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
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


async def becomes(socket, kind):
    """The sentence of the next state of a kind."""
    while (message := await receive(socket, "state"))["state"] != kind:
        pass
    return message["sentence"]


async def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


class Webcam:
    """What a camera on the network does: ``/clip.mp4`` is a file, ``/stream`` gives JPEGs without end, or ``count``."""

    def __init__(self, clip, count=10**6, silent=False) -> None:
        self.clip, self.count, self.silent = clip, count, silent
        self.viewers = 0

    async def __aenter__(self):
        app = web.Application()
        app.add_routes([web.get("/stream", self.stream), web.get("/clip.mp4", self.file)])
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def file(self, request):
        return web.FileResponse(self.clip)

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
