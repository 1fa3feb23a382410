"""What methods that score many changed copies share: batch sizes, channel budgets, progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["batch_fitting", "counted", "progress_bar", "strongest"]

_BATCH_ELEMENTS = 2**24  # 64 MB in fp32
_LARGEST_BATCH = 64


def batch_fitting(example: Tensor) -> int:
    """How many copies of ``example`` ``[1, ...]`` are scored at once where nothing was asked for."""
    return max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // max(1, example.numel())))


def strongest(activations: Tensor, budget: int | None) -> Tensor:
    """Channels of each image ``[N, budget]``, in their order: those of largest variance over positions, or all."""
    batch, channels = activations.shape[:2]
    if budget is None or budget >= channels:
        return torch.arange(channels, device=activations.device).expand(batch, -1)
    variance = activations.flatten(2).float().var(2, correction=0)
    return variance.topk(budget, 1).indices.sort(1).values


def counted(value: int | None, name: str) -> int | None:
    """``value``, checked to be a positive int or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} must be a positive int or None, got {value!r}")
    return value


class _NoBar:
    def update(self, _: int) -> None:
        pass


@contextlib.contextmanager
def progress_bar(total: int, wanted: bool, title: str) -> Iterator[Any]:
    """A tqdm bar, or something of its shape where none is wanted or tqdm is not installed."""
    if wanted:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            with tqdm(total=total, desc=title) as bar:
                yield bar
            return
    yield _NoBar()
