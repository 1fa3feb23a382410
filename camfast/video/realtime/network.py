"""The network as the engine runs it: where, in which dtype, and in which memory layout."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...model.restored import Restored
from ...model.untouched import quiet
from ...pictures.preparation import Preparation

__all__ = ["faster_in_channels_last", "fastest_threads", "in_channels_last", "placed", "prepared_by", "threads"]

TURNS = 4  # passes of each layout, of which the first is cold
PATIENCE = 3.0  # seconds for all of them
THREAD_TURNS = 6  # passes with each number of threads, of which the first is cold
THREAD_LEAD = 0.9  # of the time: what fewer threads must save to be taken
LEAD = 0.95  # of the time: what channels_last must save to be taken


def placed(
    model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None, channels_last: bool | None
) -> nn.Module:
    """``model``, or a copy of it where it must be changed."""
    some = next((p for p in model.parameters() if p.is_floating_point()), None)
    if some is None:
        return model
    moves = device is not None and torch.device(device) != some.device
    if not moves and dtype in (None, some.dtype) and channels_last is None:
        return model
    layout = None if channels_last is None else torch.channels_last if channels_last else torch.contiguous_format
    moved = copy.deepcopy(model).to(device=device, dtype=dtype)
    return moved if layout is None else moved.to(memory_format=layout)


def in_channels_last(model: nn.Module) -> bool:
    """Whether the weights lie in channels_last."""
    return any(p.ndim == 4 and p.shape[1] > 1 and not p.is_contiguous() for p in model.parameters())


def faster_in_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether ``model``, as it is, takes images like ``images`` faster in channels_last: measured, in turns.

    What is faster depends on the network more than on anything else. On two cores of an AMD EPYC (AVX-512, batch 1), given
    channels_last, MobileNetV3-Large takes 0.81 times as long, EfficientNet-Lite0 0.83 and ResNet-50 1.4 times; where its
    weights lie in channels_last too, ResNet-50 takes 1.1 times as long, and the other two as long as without.
    """
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return False
    layouts = (torch.contiguous_format, torch.channels_last)
    best, start = [float("inf")] * 2, time.perf_counter()
    with quiet(model), torch.no_grad():
        for turn in range(TURNS):
            for i, layout in enumerate(layouts):
                given = images.contiguous(memory_format=layout)
                began = time.perf_counter()
                model(given)
                if turn:
                    best[i] = min(best[i], time.perf_counter() - began)
            if turn and time.perf_counter() - start > PATIENCE:
                break
    return best[1] < LEAD * best[0]


def fastest_threads(model: nn.Module, images: Tensor) -> int:
    """With how many of this process's threads ``model`` takes images like ``images`` fastest: measured, in turns.

    All of them, half, and one are tried. On a machine that others keep busy fewer are faster, since all wait at the end of
    each operation for the one that the others have delayed. The median counts: the best is luck there.
    """
    most = torch.get_num_threads()
    counts = sorted({most, max(most // 2, 1), 1}, reverse=True)
    if len(counts) == 1:
        return most
    times: dict[int, list[float]] = {count: [] for count in counts}
    start = time.perf_counter()
    with threads(most), quiet(model), torch.no_grad():
        for turn in range(THREAD_TURNS):
            for count in counts:
                torch.set_num_threads(count)
                began = time.perf_counter()
                model(images)
                if turn:
                    times[count].append(time.perf_counter() - began)
            if turn > 1 and time.perf_counter() - start > PATIENCE:
                break
    median = {count: statistics.median(seconds) for count, seconds in times.items()}
    best = min(counts, key=lambda count: median[count])
    return best if median[best] < THREAD_LEAD * median[most] else most


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """PyTorch uses ``count`` threads in the ``with`` block; None: as many as before."""
    before = torch.get_num_threads()
    with Restored() as restored:
        restored.back(lambda: torch.set_num_threads(before) if torch.get_num_threads() != before else None)
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield


def prepared_by(
    input_size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float], fit: str
) -> Preparation:
    """The steps from a frame to an input of that size: all of it squeezed ("stretch"), or its middle ("crop")."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"input_size must be a positive int or (height, width), got {input_size!r}")
    if fit not in ("stretch", "crop"):
        raise ValueError(f"fit must be 'stretch' or 'crop', got {fit!r}")
    if fit == "crop" and size[0] != size[1]:
        raise ValueError(f"fit='crop' needs a square input, got {size}; pass preparation=")
    resize = size if fit == "stretch" else size[0]
    return Preparation(resize, size, tuple(mean), tuple(std))
