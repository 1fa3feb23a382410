"""One computation for all viewers: it runs while someone looks, and no viewer can slow it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import reason, require
from ...methods import METHODS
from ...ops import colormaps
from ..realtime import Realtime
from .source import Newest, Source

__all__ = ["Hub", "Shown"]

SETTINGS = ("targets", "method", "layers", "colormap", "alpha", "smooth")
_QUALITY = 82  # of the JPEGs
_PATIENCE = 0.1  # seconds between looks at whether the last viewer has gone
_CALM = 0.9  # share of the past in the seconds between frames, whose inverse is the rate shown


@dataclass(frozen=True)
class Shown:
    """What viewers are shown: a picture, and what is told beside it."""

    number: int
    jpeg: bytes
    facts: dict[str, Any]


class Hub:
    """Explains ``source`` with ``engine`` while there are viewers; the newest picture is :attr:`latest`.

    :meth:`join` and :meth:`leave` take a function that is called, from another thread, whenever there is something new.
    ``layers`` are the names that the page offers. The threads start with the first viewer and have ended when the last
    one's ``leave`` returns.
    """

    def __init__(self, source: Source, engine: Realtime, layers: Sequence[str] = ()) -> None:
        self.source, self.engine, self.layers = source, engine, list(layers)
        self.latest: Shown | None = None
        self.problem = ""  # why there is no picture, or why a control did not act
        self.paused = False
        self._number, self._gap, self._last = 0, 0.0, 0.0
        self._viewers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._good = self._settings()  # the settings of the last frame that was explained

    @property
    def running(self) -> bool:
        """Whether frames are being explained."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, notify: Callable[[], None]) -> None:
        """Adds a viewer, and starts work for the first one, or where it had ended."""
        with self._lock:
            self._viewers.add(notify)
            if not self.running:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(self._stop,), name="camfast-hub", daemon=True)
                self._thread.start()

    def leave(self, notify: Callable[[], None]) -> None:
        """Takes a viewer away; after the last one waits until work has stopped."""
        with self._lock:
            self._viewers.discard(notify)
            if not self._viewers and self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._thread = None

    def set(self, changes: Any) -> None:
        """Changes settings: a dict of ``SETTINGS`` and "paused".

        Raises ``ValueError`` or ``TypeError`` for other names and for unusable values; those before them are set.
        """
        if not isinstance(changes, dict):
            raise TypeError(f"expected settings by name, got {type(changes).__name__}")
        unknown = sorted(set(changes) - {*SETTINGS, "paused"})
        if unknown:
            raise ValueError(f"expected settings of {', '.join(SETTINGS)}, paused, got {unknown[0]!r}")
        self.problem = ""
        for name, value in changes.items():
            if name == "paused":
                self.paused = bool(value)
            else:
                setattr(self.engine, name, value)

    def choices(self) -> dict[str, Any]:
        """What the controls offer, and where they stand."""
        names = self.engine.class_names
        return {
            "methods": list(METHODS),
            "colormaps": colormaps.names(),
            "classes": [] if names is None else list(names),
            "layers": self.layers,
            "settings": self.standing(),
        }

    def standing(self) -> dict[str, Any]:
        """Where the controls stand, for JSON."""
        settings = {**self._settings(), "paused": self.paused}
        if not isinstance(settings["targets"], (int, tuple, type(None))):
            settings["targets"] = str(settings["targets"])  # the five best, or a callable
        return settings

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self.engine, name) for name in SETTINGS}

    def _run(self, stop: threading.Event) -> None:
        """Explains the newest frame again and again; while paused the same one, and only after a change of settings."""
        newest = Newest(self.source)
        self._gap, self._last, self.problem, self.latest = 0.0, time.monotonic(), "", None
        given: tuple[np.ndarray, float] | None = None
        try:
            while not stop.is_set():
                if self.paused and given is not None:
                    if self._settings() == self._good:
                        stop.wait(_PATIENCE)
                        self._last = time.monotonic()
                        continue
                    given = given[0], time.monotonic()
                elif (fresh := newest.get(_PATIENCE)) is None:
                    continue
                else:
                    given = fresh
                self._show(*given)
        except Exception as error:
            self.problem = f"{self.problem or _sentence(error)}; reload the page to start again"
        finally:
            newest.close()
            self._tell()

    def _show(self, frame: np.ndarray, came: float) -> None:
        """Explains a frame that came at that time and tells the viewers. Settings that fit no frame are taken back."""
        asked = self._settings()
        try:
            result = self.engine(frame)
        except Exception as error:
            self.problem = _sentence(error)
            if asked == self._good:
                raise
            for name, value in self._good.items():
                setattr(self.engine, name, value)
            self._tell()
            return
        self._good = asked
        jpeg = _jpeg(result.overlay.cpu().numpy())
        now = time.monotonic()
        gap = max(now - self._last, 1e-6)
        self._gap = _CALM * self._gap + (1 - _CALM) * gap if self._gap else gap
        self._last = now
        self._number += 1
        facts = {
            "number": self._number,
            "rate": round(1 / self._gap, 1),
            "latency": round((now - came) * 1000, 1),
            "engine": round(result.milliseconds, 1),
            "scores": result.ranking(5),
            "explained": result.labels(),
            "layers": self.engine.layers_in_use,
        }
        self.latest = Shown(self._number, jpeg, facts)
        self._tell()

    def _tell(self) -> None:
        for notify in list(self._viewers):
            notify()


def _sentence(error: Exception) -> str:
    plain = isinstance(error, (ValueError, TypeError, OSError, EOFError))
    return reason(error) if plain else f"{type(error).__name__}: {reason(error)}"


def _jpeg(overlay: np.ndarray) -> bytes:
    """``overlay``, ``[H, W, 3]`` or ``[K, H, W, 3]`` side by side, as a JPEG."""
    require("PIL", "vision")
    from PIL import Image

    if overlay.ndim == 4:
        overlay = np.concatenate(list(overlay), 1)
    data = io.BytesIO()
    Image.fromarray(overlay).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
