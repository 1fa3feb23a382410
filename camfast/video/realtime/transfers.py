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

    def landed(self) -> tuple[Tensor, Any]:
        """The picture and the rest, once they are down; frees the slot."""
        self.downloaded.synchronize()
        assert self.answer is not None
        picture, rest = self.answer.clone(), self.rest
        self.shown = self.rest = None
        return picture, rest


class _Stays:
    """A frame that was on the device, and whose picture stays there."""

    def __init__(self, picture: Tensor, rest: Any) -> None:
        self.picture, self.rest, self.computed = picture, rest, torch.cuda.Event()
        self.computed.record()

    def landed(self) -> tuple[Tensor, Any]:
        """The picture and the rest, once they are computed."""
        self.computed.synchronize()
        return self.picture, self.rest


def overlapped(
    frames: Iterable[Tensor], compute: Callable[[Tensor], tuple[Tensor, Any]], device: torch.device
) -> Iterator[tuple[Tensor, Any]]:
    """``(picture, rest)`` of each of ``frames`` (uint8), in order; the picture is in memory of its own, finished.

    Frames that are on ``device`` already, and their pictures, stay there.

    ``compute`` is called on the current stream with a frame on ``device`` and returns a picture on it, and anything else.
    """
    up, down = torch.cuda.Stream(device), torch.cuda.Stream(device)
    slots: list[_Slot | None] = [None] * DEPTH
    flying: deque[_Slot | _Stays] = deque()
    try:
        for turn, frame in enumerate(frames):
            if len(flying) == DEPTH:
                yield flying.popleft().landed()
            if frame.device == device:
                flying.append(_Stays(*compute(frame)))
                continue
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
            yield flying.popleft().landed()
    finally:
        torch.cuda.synchronize(device)  # no copy may outlive the memory it goes to
