"""One computation for all viewers: it runs while someone looks, and no viewer can slow it."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import reason
from ...methods import METHODS
from ...methods.gradient import GradientExplainer
from ...ops import colormaps
from ..realtime import Realtime
from .guest import Guest
from .patience import CalledOff, Watched
from .shown import Shown, counted, doubt, jpeg
from .source import Newest, Source
from .wishes import Wishes

__all__ = ["Hub", "Shown", "State"]

SETTINGS = ("targets", "method", "layers", "colormap", "alpha", "smooth")
_PATIENCE = 0.1  # seconds between looks at whether the last viewer has gone
_CALM = 0.9  # share of the past in the seconds between frames, whose inverse is the rate shown
_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds before a source is tried again, the last one for ever
MOST = 16  # classes or layers of one wish: each class is a picture
_TRIAL = 0.4  # seconds in which a method must fail not to be offered


@dataclass(frozen=True)
class State:
    """Whether pictures come, and one sentence where they do not.

    ``kind``: "idle", "opening", "live" (the sentence is what is explained), "retrying" (another try is coming), "ended" or
    "failed" (none is).
    """

    kind: str
    sentence: str = ""


class _Lost(Exception):
    """The source gives no more frames."""


class Hub:
    """Explains ``source`` with ``engine`` while there are viewers; the newest picture is :attr:`latest`.

    :meth:`join` and :meth:`leave` take a function that is called, from another thread, whenever there is something new.
    A camera or an address that breaks off is tried again, after longer and longer times. The threads start with the first
    viewer and have ended when the last one's ``leave`` returns.

    Args:
        source: where frames come from; None: from a viewer's browser alone.
        engine: explains them.
        layers: the names that the page offers.
        say: called with a sentence whenever pictures stop coming, or come again.
    """

    def __init__(
        self,
        source: Source | None,
        engine: Realtime,
        layers: Sequence[str] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.source, self.engine, self.layers = source, engine, list(layers)
        self._names = (*SETTINGS, "min_score") if engine.detects else SETTINGS  # of the settings
        self.latest: Shown | None = None
        self.state = State("idle")
        self.problems: dict[Any, tuple[str, str]] = {}  # of each viewer: a control that did not act, and why
        self.progress: dict[str, Any] | None = None  # of an explanation that takes long
        self.refused: dict[str, str] = {}  # methods that cannot work here, and why
        self.paused = False
        self.guest: Guest | None = None
        self._say = say
        self._untried = list(METHODS)
        self._long: set[str] = set()  # methods that take longer than a trial
        self._operations: dict[str, int] = {}  # of an explanation by each slow method, where one was finished
        self._number, self._gap, self._last = 0, 0.0, 0.0
        self._viewers: set[Callable[[], None]] = set()
        self._wishes, self._trying = Wishes(), set[Any]()  # what was asked for, and whose wishes no frame has shown
        self._lock = threading.Lock()
        self._stop, self._cancelled = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False  # the thread is about to end
        self._good = self._settings()  # the settings of the last frame that was explained
        self._quick = self._good  # of the last one by a method that is not slow

    @property
    def running(self) -> bool:
        """Whether frames are being explained, or waited for."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, notify: Callable[[], None]) -> None:
        """Adds a viewer, and starts work for the first one, or where it had ended."""
        with self._lock:
            self._viewers.add(notify)
        self.begin()

    def leave(self, notify: Callable[[], None]) -> None:
        """Takes a viewer away; after the last one waits until work has stopped."""
        with self._lock:
            self._viewers.discard(notify)
            self._wishes.forget(notify)
            self.problems.pop(notify, None)
            if not self._viewers and self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._thread, self.guest, self.state = None, None, State("idle")

    def begin(self) -> None:
        """Starts work where there are viewers and it has not begun, or has ended."""
        with self._lock:
            if not self._viewers or (self.running and not self._over):
                return
            if self._thread is not None:
                self._thread.join()
            self._stop, self._over = threading.Event(), False
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="camfast-hub", daemon=True)
            self._thread.start()

    def receive(self, pixels: np.ndarray, name: str, who: Any = None) -> None:
        """A frame of a viewer's browser, which takes the place of the source until :meth:`dismiss`."""
        guest = self.guest
        if guest is None or guest.name != name:
            self.guest = guest = Guest(name, who)
            self._tell()
        guest.put(pixels)
        self.begin()

    def dismiss(self) -> None:
        """Goes back to the source."""
        self.guest = None
        self._tell()
        self.begin()

    def cancel(self) -> None:
        """Calls the explanation that runs off, where its method is slow, and goes back to a quick one, or pauses."""
        self._cancelled.set()

    def set(self, changes: Any, who: Any = None) -> None:
        """Changes settings: a dict of ``SETTINGS``, of a detector "min_score", and "paused".

        While frames come the next one tries them; what fits none is taken back, and ``who``, a viewer, is told.

        Raises ``ValueError`` or ``TypeError`` for other names and for unusable values; those before them are set.
        """
        if not isinstance(changes, dict):
            raise TypeError(f"expected settings by name, got {type(changes).__name__}")
        unknown = sorted(set(changes) - {*self._names, "paused"})
        if unknown:
            raise ValueError(f"expected settings of {', '.join(self._names)}, paused, got {unknown[0]!r}")
        self.problems.pop(who, None)
        for name, value in changes.items():
            if name == "paused":
                self.paused = bool(value)
                continue
            if isinstance(value, (list, tuple)) and len(value) > MOST:
                raise ValueError(f"{name} must be at most {MOST} here, got {len(value)}")
            checked = self.engine.checked(name, value)
            if self.running and not self._over:
                self._wishes.add(who, name, checked)
            else:
                setattr(self.engine, name, checked)
        self._tell()

    def choices(self) -> dict[str, Any]:
        """What the controls offer, and where they stand."""
        names = self.engine.class_names
        return {
            "methods": [{"name": name, "slow": name in self._long} for name in METHODS if name not in self.refused],
            "colormaps": colormaps.names(),
            "classes": [] if names is None else list(names),
            "layers": self.layers,
            "detects": self.engine.detects,
            "source": "" if self.source is None else self.source.label,
            "settings": self.controls(),
        }

    def standing(self) -> dict[str, Any]:
        """Where the controls stand, for JSON."""
        settings = {**self._wishes.over(self._settings()), "paused": self.paused}
        for name, plain in (("targets", (int, tuple, type(None))), ("colormap", str)):
            if not isinstance(settings[name], plain):
                settings[name] = str(settings[name])  # the five best, a callable, a table of colours
        return settings

    def controls(self) -> dict[str, Any]:
        """Where the controls stand, and whose pictures are shown in place of the source's, if anyone's."""
        guest = self.guest
        return {**self.standing(), "guest": guest.name if guest else ""}

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self.engine, name) for name in self._names}

    # The thread.

    def _run(self, stop: threading.Event) -> None:
        tries = 0
        try:
            while not stop.is_set():
                number = self._number
                try:
                    self._follow(stop)
                except _Lost as lost:
                    tries = 1 if self._number > number else tries + 1
                    again = self.source is not None and not self.source.is_file
                    if not again or isinstance(lost.__cause__, EOFError):
                        self._over = True  # before it is told: who hears it may begin anew at once
                        self._become("ended" if isinstance(lost.__cause__, EOFError) else "failed", str(lost))
                        return
                    self._wait(stop, str(lost), _DELAYS[min(tries, len(_DELAYS)) - 1])
        except Exception as error:
            self._over = True
            self._become("failed", _sentence(error))
        finally:
            self._over = True
            self._tell()

    def _wait(self, stop: threading.Event, why: str, seconds: float) -> None:
        """Waits before the source is tried again; a browser's frame ends it."""
        end = time.monotonic() + seconds
        self._become("retrying", f"{why}; trying again in {seconds:g} s")
        while self.guest is None and not stop.is_set() and time.monotonic() < end:
            stop.wait(_PATIENCE)

    def _follow(self, stop: threading.Event) -> None:
        """Explains the newest frame again and again; while paused the same one, and only after a change of settings.

        Returns when the source is to be another one; raises :class:`_Lost` where it gives no more frames.
        """
        guest = self.guest
        if guest is None and self.source is None:
            self._become("opening", "waiting for a picture: start your webcam, or drop a photograph here")
            while self.guest is None and not stop.is_set():
                stop.wait(_PATIENCE)
            return
        if guest is None:
            assert self.source is not None
            self._become("opening", f"opening {self.source.label}")
        newest: Guest | Newest = guest or Newest(self.source)  # type: ignore[arg-type]
        name = guest.name if guest else self.source.label  # type: ignore[union-attr]
        given: tuple[np.ndarray, float] | None = None
        self._gap, self._last, self.latest = 0.0, 0.0, None
        try:
            while not stop.is_set() and self.guest is guest:
                fresh = None
                if not (self.paused and given is not None):
                    try:
                        fresh = newest.get(_PATIENCE)
                    except Exception as error:
                        raise _Lost(_sentence(error)) from error
                if fresh is None:  # a photograph, or a stream that is paused, is explained anew when a control moves
                    known = self._settings() == self._good and not self._wishes
                    if given is None or known or not (self.paused or guest):
                        if self.paused:
                            stop.wait(_PATIENCE)
                            self._last = time.monotonic()
                        continue
                    fresh = given[0], time.monotonic()
                given = fresh
                if self._show(*given, stop, guest):
                    self._become("live", name)
                    self._try_method(given[0], stop)
        finally:
            newest.close()

    def _show(self, frame: np.ndarray, came: float, stop: threading.Event, guest: Guest | None) -> bool:
        """Explains a frame that came at that time and tells the viewers. What fits no frame is taken back."""
        if self._fulfil():
            return False
        asked = self._settings()
        slow = _slow(asked["method"])
        self._cancelled.clear()
        try:
            with self._watched(asked, stop) if slow else nullcontext() as watched:
                result = self.engine(frame)
                picture = jpeg(result.overlay().cpu().numpy())
        except CalledOff:
            if self._settings() == asked and not self._wishes and not stop.is_set():
                self._take_back(self._quick)
                if self._quick == asked:
                    self.paused = True
                self._object(self._viewers, "method", f"{asked['method']} was cancelled")
            return False
        except Exception as error:
            wrong = [name for name in self._names if asked[name] != self._good[name]]
            if wrong:
                self._object(self._trying or self._viewers, wrong[0], _sentence(error))
                self._take_back(self._good)
            elif guest is not None:  # a picture that the network cannot take is no reason to end
                self._object([guest.who], "source", _sentence(error))
                self.guest = None
            else:
                raise
            return False
        finally:
            self.progress = None
            self._tell()
        if watched is not None:
            self._operations[asked["method"]] = watched.done
        else:
            self._quick = asked
        self._good = asked
        self._trying.clear()
        now = time.monotonic()
        gap = max(now - (self._last or came), 1e-6)
        if self._last:  # the first frame is no measure: a network is slow at first
            self._gap = _CALM * self._gap + (1 - _CALM) * gap if self._gap else gap
        self._last = now
        self._number += 1
        facts = {
            "number": self._number,
            "rate": round(1 / (self._gap or gap), 1),
            "latency": round((now - came) * 1000, 1),
            "engine": round(result.milliseconds, 1),
            "scores": counted(result) if self.engine.detects else result.ranking(5),
            "explained": result.labels(),
            "layers": self.engine.layers_in_use,
            "doubt": doubt(result),
        }
        self.latest = Shown(self._number, picture, facts)
        self._tell()
        return True

    def _watched(self, asked: dict[str, Any], stop: threading.Event) -> Watched:
        method = asked["method"]
        expected = self._operations.get(method)

        def report(done: int, seconds: float) -> None:
            share = None if not expected else min(done / expected, 0.99)
            self.progress = {"method": method, "seconds": round(seconds, 1), "share": share}
            self._tell()

        def off() -> bool:
            return stop.is_set() or self._cancelled.is_set() or bool(self._wishes) or self._settings() != asked

        return Watched(off, report)

    def _try_method(self, frame: np.ndarray, stop: threading.Event) -> None:
        """Looks whether the next method works here, for a moment: one that raises at once is no longer offered."""
        if not self._untried:
            return
        method = self._untried.pop()
        try:
            with warnings.catch_warnings(), Watched(stop.is_set, limit=_TRIAL):
                warnings.simplefilter("ignore")  # they would be about a method that nobody asked for
                self.engine.attempt(frame, method)
        except CalledOff:
            self._long.add(method)
        except Exception as error:
            self.refused[method] = _sentence(error)
        self._last = time.monotonic()

    def _fulfil(self) -> bool:
        """Sets what the next viewer wishes; whether that failed."""
        wish = self._wishes.take()
        if wish is None:
            return False
        who, changes = wish
        self._trying.add(who)
        for name, value in changes.items():
            try:
                setattr(self.engine, name, value)
            except Exception as error:
                self._object([who], name, _sentence(error))
                self._take_back(self._good)
                return True
        return False

    def _object(self, viewers: Iterable[Any], control: str, sentence: str) -> None:
        """Tells viewers why a control of theirs did not act."""
        for who in self._viewers.intersection(viewers):
            self.problems[who] = control, sentence
        self._tell()

    def _take_back(self, settings: dict[str, Any]) -> None:
        self._trying.clear()
        for name, value in settings.items():
            with contextlib.suppress(Exception):  # what cannot be set at all has been told; the stream goes on
                setattr(self.engine, name, value)

    def _become(self, kind: str, sentence: str = "") -> None:
        """Takes on a state and tells who looks, and the terminal of what is wrong, or is well again."""
        state, before = State(kind, sentence), self.state
        if state == before:
            return
        self.state = state
        if self._say is not None:
            if kind in ("retrying", "ended", "failed"):
                self._say(sentence)
            elif kind == "live" and before.kind != "live":
                self._say(f"explaining {sentence}")
        self._tell()

    def _tell(self) -> None:
        for notify in list(self._viewers):
            notify()


def _slow(method: str) -> bool:
    """Whether a method may take more than a backward pass."""
    return not issubclass(METHODS[method], GradientExplainer)


def _sentence(error: BaseException) -> str:
    plain = isinstance(error, (ValueError, TypeError, OSError, EOFError))
    return reason(error) if plain else f"{type(error).__name__}: {reason(error)}"
