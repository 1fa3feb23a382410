"""A step of fixed shapes captured in one CUDA graph: its launches cost one, whatever their number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Captured", "pieces"]

WARM_UP = 3  # calls before the capture: layers are found, algorithms chosen, libraries started


class Captured:
    """``step(frames)``, captured for frames of one shape on one CUDA device.

    ``step`` must not look at values of tensors and must keep its state in tensors that it changes in place. What a call
    returns is overwritten by the next one. Raises what the capture raises, mostly ``RuntimeError``.
    """

    def __init__(self, step: Callable[[Tensor], Any], frames: Tensor) -> None:
        self.frames = frames.clone()
        self._graph = torch.cuda.CUDAGraph()
        device = frames.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step(self.frames)
            with _no_waiting():
                step(self.frames)
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        # Other threads may allocate and copy meanwhile; the backward pass launches from a thread of its own.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self.results = step(self.frames)

    def __call__(self, frames: Tensor) -> Any:
        """The step's results for ``frames``, in tensors that the next call overwrites."""
        if frames.data_ptr() != self.frames.data_ptr():
            self.frames.copy_(frames, non_blocking=True)
        self._graph.replay()
        return self.results


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raises ``RuntimeError`` where the host waits for the device: what a capture would break over, and not recover from.

    PyTorch's switch is the process's: another thread that waits through PyTorch meanwhile gets the error too.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch is a prototype, it says
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def pieces(results: Any) -> Any:
    """``results`` with copies of its tensors, which later calls leave alone."""
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in results)
