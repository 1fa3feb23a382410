"""Processes forked from one whose threads OpenMP had started: in the child it waits for them for ever.

PyTorch's own ops hang there too. That a parent had such threads can be seen, that a call needs them cannot: a warning is given
before the first op in the child, unless the child has said how many threads it wants, as workers of a ``DataLoader`` do.
"""

from __future__ import annotations

import os
import threading
import warnings

import torch

__all__ = ["is_due", "warn_once"]

is_due = False
"""Whether a warning is due: this process is such a child, and has not called an op yet."""

_had_threads = False  # of the parent, as it forked


def warn_once() -> None:
    """Says what a child of such a process should do."""
    global is_due
    is_due = False
    if torch.get_num_threads() > 1:
        warnings.warn(
            "this process was forked from one that had computed in several threads, where OpenMP, PyTorch's too, may wait for "
            "ever; call torch.set_num_threads(1) in the child, or start it by multiprocessing's 'spawn'",
            RuntimeWarning,
            stacklevel=4,
        )


def _before() -> None:
    """Looks for threads that are not Python's own."""
    global _had_threads
    try:
        _had_threads = len(os.listdir("/proc/self/task")) > threading.active_count()
    except OSError:
        _had_threads = False


def _after_in_child() -> None:
    global is_due
    is_due = _had_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
