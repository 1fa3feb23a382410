"""TensorBoard logs: pictures, curves and histograms, into a ``SummaryWriter`` or a log directory."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..errors import require
from .frames import png_bytes

__all__ = ["EventLog", "Log", "opened"]


class Log(Protocol):
    """What can be written."""

    def add_picture(self, tag: str, picture: Tensor, step: int) -> None:
        """``picture``: uint8 ``[H, W, 3]``, RGB."""

    def add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        """``values``: any shape."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point of a curve."""


@contextlib.contextmanager
def opened(writer: Any) -> Iterator[Log]:
    """A log that writes into ``writer``: an open log, a ``SummaryWriter``, or the path of a directory.

    A directory gets a new event file, which is closed at the end; what is somebody else's is flushed and stays open.
    """
    if isinstance(writer, (str, PathLike)):
        with EventLog(writer) as log:
            yield log
    elif isinstance(writer, EventLog):
        yield writer
    elif hasattr(writer, "add_image"):
        yield _Borrowed(writer)
        if hasattr(writer, "flush"):
            writer.flush()
    else:
        raise TypeError(f"writer must be a SummaryWriter or the path of a log directory, got {type(writer).__name__}")


class _Borrowed:
    """A ``SummaryWriter`` of the caller's."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def add_picture(self, tag: str, picture: Tensor, step: int) -> None:
        self.writer.add_image(tag, picture.cpu().numpy(), step, dataformats="HWC")

    def add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        self.writer.add_histogram(tag, values.detach().float().cpu().numpy(), step)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(tag, value, step)


class EventLog:
    """One event file in a log directory, which TensorBoard shows.

    Each record is on disk when its call returns, and a record that could not be written whole is taken back: after a
    full disk the file ends with the last good one. Raises ``OSError``, in one sentence, where the directory or the file
    cannot be written; needs TensorBoard's package.

    A ``SummaryWriter`` was tried in its place: as fast, since most of the time goes into the PNG, but a full disk meets
    it in a thread of its own, which prints a traceback after the sentence and leaves the file open.
    """

    _numbers = itertools.count()

    def __init__(self, directory: str | PathLike[str]) -> None:
        require("tensorboard", "tensorboard")
        self.directory = Path(directory).expanduser()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(self._numbers)}"
        self.path = self.directory / name
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise OSError(
                f"expected a log directory that can be written, got {self.directory}: {error.strerror or error}"
            ) from error
        self._add(file_version="brain.Event:2")

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def add_picture(self, tag: str, picture: Tensor, step: int = 0) -> None:
        """``picture``, uint8 ``[H, W, 3]``, RGB, as a PNG under ``tag``. Needs Pillow."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png_bytes(picture))
        self._add(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def add_histogram(self, tag: str, values: Tensor, step: int = 0) -> None:
        """The distribution of ``values``, of any shape, in 64 bins; values that are not finite are left out."""
        from torch.utils.tensorboard import summary

        numbers = values.detach().float().cpu().numpy().ravel()
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size:
            edges = np.histogram_bin_edges(numbers.astype(np.float64), 64)
            self._add(step=step, summary=summary.histogram(tag, numbers, edges))

    def add_scalar(self, tag: str, value: float, step: int = 0) -> None:
        """One point of the curve ``tag``."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        start = self._file.tell()
        data = record.getvalue()
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
                self._file.seek(start)
            raise OSError(
                f"cannot write on to the log {self.path}: {error.strerror or error}; what was written is readable"
            ) from error
