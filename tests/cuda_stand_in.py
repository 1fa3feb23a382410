"""CUDA graphs without a GPU: what PyTorch runs during a capture is noted, operation by operation, and run again in a replay.

As with CUDA, a replay reads and writes the memory of the capture: values that Python worked out meanwhile stay as they were,
weights that are changed in place are seen, and the host may not look at a value.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from camfast.methods import Explainer, LayerExplainer
from camfast.model import cuda_graphs

__all__ = ["StandIn", "install"]

_LOOKS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2"}


class _NoLooks(TorchDispatchMode):
    """An error where the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _LOOKS:
            raise RuntimeError("called a synchronizing CUDA operation")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _LOOKS:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.graph.operations.append((func, args, kwargs or {}, result))
        return result


class Graph:
    """What was noted in one capture."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        """Runs every operation again, on the same memory."""
        self.replays += 1
        with torch.inference_mode(False), torch.no_grad():  # in this order: the first turns gradients on
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for before, now in zip(pytree.tree_leaves(result), pytree.tree_leaves(again), strict=True):
                    # A view, or what an operation in place returns, lies in memory that is up to date.
                    if (
                        isinstance(before, Tensor)
                        and before.untyped_storage().data_ptr() != now.untyped_storage().data_ptr()
                    ):
                        before.copy_(now)


class _Stream:
    def wait_stream(self, other: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...


class _Event:
    def record(self, stream: Any) -> None: ...


class StandIn:
    """What :mod:`camfast.model.cuda_graphs` takes of ``torch.cuda``.

    Attributes:
        graphs: every graph that was begun.
        fails: what a capture raises, in place of capturing.
    """

    Stream = staticmethod(lambda device: _Stream())
    Event = _Event

    def __init__(self) -> None:
        self.graphs: list[Graph] = []
        self.fails: Exception | None = None
        self._capturing = threading.local()
        self._mode: Any = 0
        self._no_looks: Any = None

    def CUDAGraph(self) -> Graph:
        self.graphs.append(Graph())
        return self.graphs[-1]

    @property
    def replays(self) -> int:
        """How often any graph was replayed."""
        return sum(graph.replays for graph in self.graphs)

    def current_stream(self, device: Any = None) -> _Stream:
        return _Stream()

    def stream(self, stream: Any) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    def synchronize(self, device: Any = None) -> None: ...

    def is_current_stream_capturing(self) -> bool:
        return getattr(self._capturing, "now", False)

    @contextlib.contextmanager
    def graph(self, graph: Graph, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        if self.fails is not None:
            raise self.fails
        self._capturing.now = True
        try:
            with _Recorder(graph):
                yield
        finally:
            self._capturing.now = False

    def get_sync_debug_mode(self) -> Any:
        return self._mode

    def set_sync_debug_mode(self, mode: Any) -> None:
        if self._no_looks is not None:
            self._no_looks.__exit__(None, None, None)
            self._no_looks = None
        self._mode = mode
        if mode == "error":
            self._no_looks = _NoLooks()
            self._no_looks.__enter__()


def install(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Lets tensors on the CPU be captured, as those on a CUDA device are."""
    stand_in = StandIn()
    monkeypatch.setattr(cuda_graphs, "cuda", stand_in)
    monkeypatch.setattr(cuda_graphs, "_DEVICES", {"cpu"})
    # Looks at values that are free on the CPU alone, and are not made on CUDA.
    look = Explainer.look
    monkeypatch.setattr(Explainer, "look", lambda self, heat, found: None if self._looked else look(self, heat, found))
    monkeypatch.setattr(LayerExplainer, "is_unreached", lambda self, maps: False)
    return stand_in
