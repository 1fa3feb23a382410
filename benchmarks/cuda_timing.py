"""Timing on a CUDA device, and the two yardsticks that every figure is held against.

Device work is asynchronous. :class:`EventTimer` brackets a queue of calls with events, so small ops show the host's
cost of queueing them; :class:`GraphTimer` replays captured calls, so the host drops out; :class:`QueueTimer` sees only
the host. The yardsticks are an empty kernel (no op can be faster) and a device-to-device copy (no op that moves bytes
can be faster); both are measured in turns with the ops, by the same timers.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = [
    "EventTimer",
    "GraphTimer",
    "QueueTimer",
    "copy_call",
    "empty_kernel",
    "launches",
    "rotating",
    "sets_beyond_l2",
]

DEFAULT_L2 = 64 << 20  # where the device does not tell


class EventTimer:
    """Device time of ``calls`` calls queued one after the other."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, calls: int) -> float:
        torch.cuda.synchronize()
        self.start.record()
        for _ in range(calls):
            self.call()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) * 1e-3 / calls


class QueueTimer:
    """Host time to queue ``calls`` calls. Keep them few: a full launch queue makes the host wait for the device."""

    MOST = 200

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self, calls: int) -> float:
        spent, left = 0.0, calls
        while left > 0:
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(min(left, self.MOST)):
                self.call()
            spent += time.perf_counter() - start
            left -= self.MOST
        return spent / calls


class GraphTimer:
    """Device time of one call inside a CUDA graph that holds ``nodes`` of them.

    With ``nodes=1`` it is the time of a replay, launch of the graph included; with more, the launch is shared out.
    """

    def __init__(self, call: Callable[[], Any], nodes: int) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy initialisation is not allowed during capture
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.nodes = nodes
        self.graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph: it collects garbage and empties the allocator's cache, a good second for every few captures.
        with torch.cuda.stream(side):
            self.graph.capture_begin()
            try:
                for _ in range(nodes):
                    call()
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(side)
        self.replay = EventTimer(self.graph.replay)

    def __call__(self, calls: int) -> float:
        replays = max(1, round(calls / self.nodes))
        return self.replay(replays) / self.nodes


def rotating(call: Callable[..., Any], sets: Sequence[tuple[Any, ...]]) -> Callable[[], Any]:
    """``call`` on the next of ``sets`` each time, so that no input is still in the cache from the call before."""
    turn = itertools.cycle(sets)
    return lambda: call(*next(turn))


def sets_beyond_l2(bytes_each: int, most: int = 64) -> int:
    """How many input sets of ``bytes_each`` it takes to fill the L2 cache four times over."""
    l2 = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", None) or DEFAULT_L2
    return max(2, min(most, -(-4 * l2 // max(bytes_each, 1))))


@functools.cache
def empty_kernel() -> tuple[Callable[[], Any], str]:
    """A kernel that does nothing, and what it is: compiled at run time where that works, else a one-element fill."""
    try:
        kernel = torch.cuda._compile_kernel('extern "C" __global__ void empty() {}', "empty")
        kernel()
        torch.cuda.synchronize()
        return kernel, "empty kernel"
    except Exception:  # a private function of PyTorch: whatever goes wrong, the fill is nearly as empty
        one = torch.empty(1, device="cuda")
        return lambda: one.fill_(0), "one-element fill"


def copy_call(moved_bytes: int) -> Callable[[], Any]:
    """A device-to-device copy that reads and writes ``moved_bytes`` in all (half each)."""
    count = max(1, moved_bytes // 2 // 4)
    # Random bits: copies of constant data can run faster than copies of real data.
    source = torch.randint(-(2**31), 2**31 - 1, (count,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def launches(call: Callable[[], Any]) -> int | None:
    """How many kernels one ``call`` launches, memory copies and fills included; None where the profiler is refused."""
    try:
        from torch.profiler import ProfilerActivity, profile

        call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        events = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return len(events) or None
    except Exception:  # profiling needs rights that shared machines often withhold
        return None
