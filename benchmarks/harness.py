"""Several candidates measured side by side in one run.

Clocks, caches and neighbours drift. Measuring one candidate after the other hands that drift to whichever ran at the
wrong time; here the candidates take turns, round after round, so that it hits them all alike. A round gives one sample
of each candidate: the mean over enough calls to outlast the clock's resolution. What is reported is the median of the
samples, their quartiles, their minimum, and ratios formed inside a round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["HostTimer", "Result", "Timer", "measure", "progress"]

SLOW_CALL = 0.5  # seconds; a call that long needs no inner loop and only one warm-up


class Timer(Protocol):
    """Runs a candidate ``calls`` times and returns the seconds of one call."""

    def __call__(self, calls: int) -> float: ...


class HostTimer:
    """Wall-clock time of ``call``, the work it queued on a device included when ``synchronize`` is given."""

    def __init__(self, call: Callable[[], Any], synchronize: Callable[[], Any] | None = None) -> None:
        self.call, self.synchronize = call, synchronize

    def __call__(self, calls: int) -> float:
        call, synchronize = self.call, self.synchronize
        if synchronize is not None:
            synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if synchronize is not None:
            synchronize()
        return (time.perf_counter() - start) / calls


@dataclass
class Result:
    """The samples of one candidate: seconds a call, keyed by the round they were taken in."""

    samples: dict[int, float]
    calls: int  # calls behind each sample

    @property
    def median(self) -> float:
        return float(np.median(list(self.samples.values())))

    @property
    def quartiles(self) -> tuple[float, float]:
        q1, q3 = np.percentile(list(self.samples.values()), [25, 75])
        return float(q1), float(q3)

    @property
    def minimum(self) -> float:
        return min(self.samples.values())

    def ratios(self, base: Result) -> list[float]:
        """This candidate's time over ``base``'s, round by round, for the rounds both were sampled in."""
        return [t / base.samples[r] for r, t in self.samples.items() if r in base.samples]

    def ratio(self, base: Result) -> float:
        """Median of :meth:`ratios`; above 1 means slower than ``base``."""
        common = self.ratios(base)
        return float(np.median(common)) if common else self.median / base.median

    def summary(self) -> dict[str, Any]:
        """What goes into the JSON: seconds and counts."""
        q1, q3 = self.quartiles
        return {
            "median_s": self.median,
            "q1_s": q1,
            "q3_s": q3,
            "min_s": self.minimum,
            "rounds": len(self.samples),
            "calls": self.calls,
        }


def measure(
    timers: Mapping[str, Timer],
    *,
    seconds: float,
    min_rounds: int = 3,
    max_rounds: int = 60,
    sample_seconds: float = 0.005,
) -> dict[str, Result]:
    """Measures all ``timers`` in turns.

    ``seconds`` is the time for the whole set, shared out evenly: a fast candidate gets more samples than a slow one,
    between ``min_rounds`` and ``max_rounds``, and the fewer samples are spread over the whole run. ``sample_seconds``
    is the least time behind one sample.
    """
    if not timers:
        return {}
    calls, cost = {}, {}
    for name, timer in timers.items():
        calls[name], cost[name] = _calibrate(timer, sample_seconds)
    share = seconds / len(timers)
    rounds = {name: min(max(int(share / cost[name]), min_rounds), max_rounds) for name in timers}
    results = {name: Result({}, calls[name]) for name in timers}
    total = max(rounds.values())
    names = list(timers)
    with _quiet_collector():
        for r in range(total):
            # The order rotates, so that no candidate always runs in the wake of the same other one.
            for name in names[r % len(names) :] + names[: r % len(names)]:
                if _due(r, rounds[name], total):
                    results[name].samples[r] = timers[name](calls[name])
    return results


def _calibrate(timer: Timer, sample_seconds: float) -> tuple[int, float]:
    """Warms the candidate up; the calls behind one sample, and the seconds that a sample takes."""
    first = timer(1)
    if first > SLOW_CALL:
        return 1, first
    timer(1)  # the first calls are cold
    calls = 1
    while True:
        each = timer(calls)
        if each * calls >= sample_seconds:
            return calls, each * calls
        # At most tenfold a step: the first, cold calls say little about the later ones.
        calls = min(10 * calls, math.ceil(1.2 * sample_seconds / max(each, 1e-9)))


def _due(r: int, wanted: int, total: int) -> bool:
    """True in ``wanted`` of ``total`` rounds, evenly spaced."""
    return (r + 1) * wanted // total > r * wanted // total


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keeps what exists out of the collector's sight: it stays on, and no candidate pays for another's old objects."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def progress(items: list[Any], label: str) -> Any:
    """``items`` behind a progress bar on stderr where tqdm is installed, else as they are."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=label, unit="case", dynamic_ncols=True, disable=None)  # silent in logs
