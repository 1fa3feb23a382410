"""Frames up and pictures down beside the computing: frame t goes up while t - 1 is computed and t - 2 comes down.

upload stream    t     ──▶ device slot ──event──▶
compute stream         t - 1 ──▶ picture slot ──event──▶
download stream                        t - 2 ──▶ pinned memory ──event──▶ handed out
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["overlapped"]

DEPTH = 3  # frames in flight: one on its way up, one computed, one on its way down


@dataclass
class _Slot:
    """The memory of one frame in flight; made anew where a frame has another shape."""

    pinned: Tensor
    device: Tensor
    uploaded: Any = field(default_factory=torch.cuda.Event)
    computed: Any = field(default_factory=torch.cuda.Event)
    downloaded: Any = field(default_factory=torch.cuda.Event)
    answer: Tensor | None = None  # pinned
    shown: Tensor | None = None  # the picture on the device, held until it is down
    rest: Any = None


def overlapped(
    frames: Iterable[Tensor], compute: Callable[[Tensor], tuple[Tensor, Any]], device: torch.device
) -> Iterator[tuple[Tensor, Any]]:
    """``(picture, rest)`` of each of ``frames`` (uint8, in memory), in order; the picture is in memory of its own.

    ``compute`` is called on the current stream with a frame on ``device`` and returns a picture on it, and anything else.
    """
    up, down = torch.cuda.Stream(device), torch.cuda.Stream(device)
    slots: list[_Slot | None] = [None] * DEPTH
    flying: deque[_Slot] = deque()
    try:
        for turn, frame in enumerate(frames):
            if len(flying) == DEPTH:
                yield _landed(flying.popleft())
            slot = slots[turn % DEPTH]
            if slot is None or slot.pinned.shape != frame.shape:
                pinned = torch.empty(frame.shape, dtype=torch.uint8, pin_memory=True)
                slot = slots[turn % DEPTH] = _Slot(pinned, torch.empty_like(pinned, device=device))
                up.wait_stream(torch.cuda.current_stream(device))  # the allocator may hand out memory still in use
            slot.pinned.copy_(frame)
            with torch.cuda.stream(up):
                slot.device.copy_(slot.pinned, non_blocking=True)
                slot.uploaded.record()
            here = torch.cuda.current_stream(device)
            here.wait_event(slot.uploaded)
            slot.shown, slot.rest = compute(slot.device)
            slot.computed.record()
            if slot.answer is None or slot.answer.shape != slot.shown.shape:
                slot.answer = torch.empty(slot.shown.shape, dtype=torch.uint8, pin_memory=True)
            with torch.cuda.stream(down):
                down.wait_event(slot.computed)
                slot.answer.copy_(slot.shown, non_blocking=True)
                slot.shown.record_stream(down)
                slot.downloaded.record()
            flying.append(slot)
        while flying:
            yield _landed(flying.popleft())
    finally:
        torch.cuda.synchronize(device)  # no copy may outlive the memory it goes to


def _landed(slot: _Slot) -> tuple[Tensor, Any]:
    slot.downloaded.synchronize()
    assert slot.answer is not None
    picture, rest = slot.answer.clone(), slot.rest
    slot.shown = slot.rest = None
    return picture, rest
