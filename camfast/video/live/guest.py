"""Frames that a viewer's browser sends: its webcam's, or a photograph dropped on the page."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import numpy as np

from ...errors import require
from ...pictures import photos

__all__ = ["MOST_BYTES", "Guest", "decoded"]

MOST_BYTES = 1 << 23  # of one picture
_MOST_PIXELS = 1 << 25
_LONGEST = 1920  # of a picture's sides, as it is explained; larger ones are made smaller


def decoded(data: bytes) -> np.ndarray:
    """The picture in ``data``, a JPEG, PNG, ...: RGB, uint8 ``[H, W, 3]``, upright, no side above 1920.

    Raises ``ValueError`` for what is no picture, or too large.
    """
    require("PIL", "vision")
    from PIL import Image, ImageOps

    wrong = "expected a picture such as a JPEG or PNG, got something else"
    try:  # readers of broken files raise anything, and other packages put their own in the place of Image.open
        file = Image.open(io.BytesIO(data), formats=photos.formats())
        pixels = file.width * file.height
    except Exception as error:
        raise ValueError(wrong) from error
    if pixels > _MOST_PIXELS:
        raise ValueError(f"expected a picture of up to 32 million pixels, got {file.width} x {file.height}")
    try:
        file.draft("RGB", (_LONGEST, _LONGEST))  # of a JPEG, decoded smaller at once
        picture = ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:
        raise ValueError(wrong) from error
    picture.thumbnail((_LONGEST, _LONGEST))
    return np.asarray(picture)


class Guest:
    """The newest frame of a browser; used as :class:`camfast.video.live.source.Newest` is."""

    def __init__(self, name: str, who: Any = None) -> None:
        self.name, self.who = name, who  # who: the viewer whose browser it is
        self._changed = threading.Condition()
        self._frame: tuple[np.ndarray, float] | None = None

    def put(self, pixels: np.ndarray) -> None:
        """A new frame, which takes the place of one that nobody has looked at."""
        with self._changed:
            self._frame = pixels, time.monotonic()
            self._changed.notify()

    def get(self, timeout: float) -> tuple[np.ndarray, float] | None:
        """The newest frame not yet given, and when it came; None where none came in ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None, timeout)
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        """Nothing is to be ended: the browser sends, or does not."""
