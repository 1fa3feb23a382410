"""A step of fixed shapes captured in one CUDA graph: its launches cost one, whatever their number."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, cuda

from .restored import Restored

__all__ = ["Captured", "has_graphs", "is_capturing", "pieces"]

WARM_UP = 3  # calls before the capture: layers are found, algorithms chosen, libraries started
_DEVICES = {"cuda"}

_one_capture = threading.RLock()  # PyTorch's switches around a capture are the process's


class Captured:
    """``step(*inputs)``, captured for tensors of these shapes on one CUDA device.

    ``step`` must not look at values of tensors and must keep its state in tensors that it changes in place. What a call
    returns is overwritten by the next one. Raises what the capture raises, mostly ``RuntimeError``.
    """

    def __init__(self, step: Callable[..., Any], *inputs: Tensor) -> None:
        self.device = inputs[0].device
        self._graph = cuda.CUDAGraph()
        self._lock = threading.Lock()
        self.inputs: list[Tensor] = []
        self.results: Any = None
        try:
            # In no mode of the caller's: later calls may be made in another, and write into these tensors.
            with _one_capture, torch.inference_mode(False), torch.no_grad():
                self._capture(step, inputs)
        except BaseException:
            cuda.synchronize(self.device)  # what was begun is over
            raise
        self._done = cuda.Event()

    def _capture(self, step: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.detach().clone() for tensor in inputs]
        stream = cuda.Stream(self.device)
        stream.wait_stream(cuda.current_stream(self.device))
        with cuda.stream(stream):
            for _ in range(WARM_UP):
                step(*self.inputs)
            with _no_waiting():
                step(*self.inputs)
        cuda.current_stream(self.device).wait_stream(stream)
        cuda.synchronize(self.device)
        # Other threads may allocate and copy meanwhile; the backward pass launches from a thread of its own.
        with cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self.results = step(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """The step's results for ``inputs``, in tensors that the next call overwrites."""
        with torch.no_grad():
            for own, given in zip(self.inputs, inputs, strict=True):
                if given.data_ptr() != own.data_ptr():
                    own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self.results

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread calls this meanwhile, and what other streams do with the results is done before."""
        with self._lock, torch.no_grad():
            stream = cuda.current_stream(self.device)
            stream.wait_event(self._done)
            yield
            self._done.record(stream)


def has_graphs(device: torch.device) -> bool:
    """Whether what runs on ``device`` can be captured."""
    return device.type in _DEVICES


def is_capturing() -> bool:
    """Whether the caller is capturing a graph of his own, in which none can begin."""
    return cuda.is_current_stream_capturing()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raises ``RuntimeError`` where the host waits for the device: what a capture would break over, and not recover from.

    PyTorch's switch is the process's: another thread that waits through PyTorch meanwhile gets the error too.
    """
    before = cuda.get_sync_debug_mode()
    with Restored() as restored:
        restored.back(lambda: cuda.set_sync_debug_mode(before))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the switch is a prototype, it says
            cuda.set_sync_debug_mode("error")
        yield


def pieces(results: Any) -> Any:
    """``results`` with copies of its tensors, which later calls leave alone."""
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in results)
