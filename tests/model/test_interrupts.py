"""Interrupts, at every line of the code that changes a model and puts it back: nothing may be left."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint as checkpoints
from torch import Tensor, nn

import camfast
from camfast.model import recurrent, restored, tap, untouched

WATCHED = {str(Path(module.__file__)) for module in (recurrent, restored, tap, untouched)} | {contextlib.__file__}
CHECKPOINT = checkpoints.CheckpointFunction


class Small(nn.Module):
    """Dropout and a norm in training mode, and a layer that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 4)
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        found = self.body(images)
        self.seen = found.detach()
        return self.head(found.mean((2, 3)))


def state(model: nn.Module) -> tuple[Any, ...]:
    """All that a pass may not leave changed."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    marks = [len(m._forward_hooks_with_kwargs) + len(m._forward_hooks_always_called) for m in model.modules()]
    modes = [module.training for module in model.modules()]
    buffers = [buffer.tolist() for buffer in model.buffers()]
    switches = (torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_cache_enabled(), torch.is_grad_enabled())
    own = len(untouched._held), len(untouched._running), untouched._fast_path_before, len(untouched._passes_here())
    patched = checkpoints.CheckpointFunction is CHECKPOINT, torch.is_inference_mode_enabled()
    return hooks, marks, modes, buffers, switches, own, patched, getattr(model, "seen", None) is None


def interrupted(run: Callable[[], Any], line: int) -> bool:
    """Runs ``run`` with an interrupt at the ``line``-th line it comes to in the watched files; whether there were so many."""
    left = line

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left <= 0


@pytest.mark.parametrize("eval_mode", [True, False], ids=["eval", "as it is"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_an_interrupt_at_any_line_leaves_nothing(training, eval_mode):
    model = Small().train(training)
    images = torch.rand(1, 3, 8, 8)
    explain = camfast.GradCAM(model, layers="body", layout="nchw", eval_mode=eval_mode)
    explain(images, 1)
    before = state(model)
    line, bad = 1, []
    while interrupted(lambda: explain(images, 1), line):
        if state(model) != before:
            bad.append(line)
            break
        line += 1
    assert not bad and line > 100, (line, bad)


def test_an_interrupt_of_the_first_pass_leaves_nothing():
    """Attributes that a pass sets are looked for in the first one; one cut short has not set them all."""
    images, line = torch.rand(1, 3, 8, 8), 1
    while True:
        model = Small().train()
        before = state(model)
        explain = camfast.GradCAM(model, layers="body", layout="nchw")
        if not interrupted(lambda: explain(images, 1), line):  # noqa: B023
            break
        assert state(model) == before, line
        explain(images, 1)
        assert state(model) == before, line
        line += 5
    assert line > 100


def test_real_interrupts_at_any_time():
    """SIGINT from a timer, wherever it finds the call."""
    usual_handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        interrupted_at_any_time()
    finally:
        signal.signal(signal.SIGINT, usual_handler)


def interrupted_at_any_time():
    model, images = Small().train(), torch.rand(2, 3, 16, 16)
    explain = camfast.GradCAM(model, layers="body", layout="nchw")
    explain(images, 1)
    before, hits, chance = state(model), 0, random.Random(0)
    start = time.perf_counter()
    explain(images, 1)
    usual = time.perf_counter() - start

    def ring() -> None:
        nonlocal hits
        time.sleep(chance.random() * usual)
        signal.raise_signal(signal.SIGINT)

    for _ in range(60):
        alarm = threading.Thread(target=ring)
        try:
            alarm.start()
            for _ in range(50):
                explain(images, 1)
            alarm.join()
        except KeyboardInterrupt:
            hits += 1
        alarm.join()
        assert state(model) == before
    assert hits > 30
