"""Frames as they happen: a camera, a stream from the network, or a file at its own pace."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ...errors import why_no_file
from ..decode import Clip, Picture, VideoError

__all__ = ["Newest", "Source"]

_SILENCE = 5.0  # seconds after which a stream that sends nothing is given up


@dataclass(frozen=True)
class Source:
    """Where frames come from: a camera's number, a file's name, or an address; ``loop`` starts a file again at its end."""

    name: str
    loop: bool = False

    @property
    def is_camera(self) -> bool:
        return self.name.isascii() and self.name.isdecimal()

    @property
    def is_file(self) -> bool:
        return not self.is_camera and "://" not in self.name

    def check(self) -> None:
        """Raises :class:`VideoError` where a file is missing; cameras and addresses are asked when they are needed."""
        if self.is_file and (why := why_no_file(Path(self.name).expanduser())):
            raise VideoError(f"cannot read {self.name}: {why}")

    def frames(self, stop: threading.Event) -> Iterator[np.ndarray]:
        """RGB frames, uint8 ``[H, W, 3]``, each at its time, until the end, an error, or ``stop``."""
        while True:
            with self._open() as clip:
                whole = self.is_file or clip.duration is not None  # else frames come when they happen
                began, end = time.monotonic(), 0.0
                for item in clip:
                    if stop.is_set():
                        return
                    if not isinstance(item, Picture):
                        continue
                    shown = float(item.pts * clip.time_base)
                    if whole:
                        stop.wait(max(0.0, began + shown - time.monotonic()))
                    end = shown + (float(item.duration * clip.time_base) or float(1 / clip.rate))
                    yield item.pixels
                if whole:  # the last frame stands as long as the others, also the only one of a photograph
                    stop.wait(max(0.0, began + end - time.monotonic()))
                notes = clip.notes
            if not whole:
                raise VideoError(f"{self.called} has ended{': ' + notes[-1] if notes else ''}")
            if not self.loop:
                return

    @property
    def called(self) -> str:
        """How it is called in sentences."""
        return f"camera {self.name}" if self.is_camera else self.name

    @property
    def label(self) -> str:
        """What viewers are told of it: no folder of this machine, no password of a camera."""
        if self.is_file:
            return Path(self.name).name
        parts = urlsplit(self.name)
        return self.called if self.is_camera else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _open(self) -> Clip:
        if not self.is_camera:
            options = {"rtsp_transport": "tcp", "fflags": "nobuffer"} if self.name.startswith("rtsp") else {}
            return Clip(self.name, options=options, timeout=None if self.is_file else _SILENCE, audio=False)
        place, format = {
            "darwin": (self.name, "avfoundation"),
            "win32": (f"video={self.name}", "dshow"),
        }.get(sys.platform, (f"/dev/video{self.name}", "v4l2"))
        try:
            return Clip(place, format=format, audio=False)
        except VideoError as error:
            raise VideoError(f"cannot open camera {self.name}: {str(error).rpartition(': ')[2]}") from error


class Newest:
    """Reads a source in a thread and keeps its newest frame alone: what comes while another is explained is dropped."""

    def __init__(self, source: Source) -> None:
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._frame: tuple[np.ndarray, float] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(source,), name="camfast-source", daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> tuple[np.ndarray, float] | None:
        """The newest frame not yet given, and when it came; None where none came in ``timeout`` seconds.

        Raises what the source raised, ``EOFError`` at its end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout)
            frame, self._frame = self._frame, None
            if frame is None and self._ended:
                raise self._error or EOFError("the clip has ended")
            return frame

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, source: Source) -> None:
        try:
            for pixels in source.frames(self._stop):
                with self._changed:
                    self._frame = pixels, time.monotonic()
                    self._changed.notify()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
