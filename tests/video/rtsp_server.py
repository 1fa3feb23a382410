"""A camera that speaks RTSP over TCP, as small as one can be: FFmpeg packs the frames, this hands the packets on.

frames -> MJPEG -> FFmpeg's RTP muxer -> UDP on this machine -> TCP, interleaved with the conversation -> the viewer
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

__all__ = ["RtspCamera"]

RATE = 15


class RtspCamera:
    """Sends ``frames`` (uint8 ``[H, W, 3]``) over and over, ``count`` in all, to one viewer at a time."""

    def __init__(self, frames: Sequence[np.ndarray], count: int = 10**6) -> None:
        self.frames, self.count = frames, count
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.2)
        self.address = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/camera"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> RtspCamera:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # nobody came, or the viewer left
                viewer, _ = self._listening.accept()
                with viewer:
                    self._talk(viewer)

    def _talk(self, viewer: socket.socket) -> None:
        """Answers the viewer's requests; after PLAY, sends."""
        viewer.settimeout(5)
        asked = b""
        while not self._stop.is_set():
            while b"\r\n\r\n" not in asked:
                more = viewer.recv(4096)
                if not more:
                    return
                asked += more
            request, _, asked = asked.partition(b"\r\n\r\n")
            verb = request.split(b" ", 1)[0].decode()
            number = re.search(rb"CSeq: *(\d+)", request, re.IGNORECASE)
            headers, body = self._answer(verb)
            answer = [
                "RTSP/1.0 200 OK",
                f"CSeq: {number.group(1).decode() if number else 0}",
                *headers,
                *([f"Content-Length: {len(body)}"] if body else []),
            ]
            viewer.sendall(("\r\n".join(answer) + "\r\n\r\n" + body).encode())
            if verb == "PLAY":
                self._send(viewer)
                return

    def _answer(self, verb: str) -> tuple[list[str], str]:
        if verb == "OPTIONS":
            return ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"], ""
        if verb == "DESCRIBE":  # payload type 26 is MJPEG and needs no further words
            description = [
                "v=0",
                "o=- 0 0 IN IP4 127.0.0.1",
                "s=camera",
                "t=0 0",
                "m=video 0 RTP/AVP 26",
                "a=control:0",
            ]
            return [f"Content-Base: {self.address}/", "Content-Type: application/sdp"], "\r\n".join(
                description
            ) + "\r\n"
        if verb == "SETUP":
            return ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"], ""
        return ["Session: 1"], ""

    def _send(self, viewer: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.setblocking(False)
            with av.open(f"rtp://127.0.0.1:{packets.getsockname()[1]}?pkt_size=1200", "w", format="rtp") as muxer:
                stream = muxer.add_stream(
                    "mjpeg", rate=RATE, options={"huffman": "default", "force_duplicated_matrix": "1"}
                )
                stream.height, stream.width = self.frames[0].shape[:2]
                stream.pix_fmt = "yuvj420p"
                for n in range(self.count):
                    frame = av.VideoFrame.from_ndarray(self.frames[n % len(self.frames)], format="rgb24")
                    frame.pts, frame.time_base = n, Fraction(1, RATE)
                    muxer.mux(stream.encode(frame))
                    time.sleep(0.01)  # the packets are on their way through this machine
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            packet = packets.recv(65536)
                            viewer.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)
                    if self._stop.wait(1 / RATE):
                        return
