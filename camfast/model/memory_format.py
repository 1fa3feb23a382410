"""Which memory format a model of convolutions is faster in, measured once for models of its kind and images of one shape.

On a processor ``channels_last`` mostly wins, by up to a factor of two, and loses where late layers have many channels and
few positions: small images in a ResNet. What is found is kept for the process and holds for copies of the model too: formats
round differently, and the same call shall give the same numbers each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .bounded import Bounded

__all__ = ["laid_out", "takes_channels_last"]

_IMAGES = 8  # of a measured pass, at most
_ROUNDS = 2  # passes in each format; the first also builds what a processor runs
_CLEARLY = 0.95  # how much of channels_last's time the contiguous format must stay below

_known: Bounded[tuple[Any, ...], bool] = Bounded()
_lock = threading.Lock()


def takes_channels_last(
    model: nn.Module, image: Tensor, run: Callable[[Tensor], Any], most: int = _IMAGES, halves: bool = False
) -> bool:
    """Whether batches of images such as ``image`` ``[1, ...]`` are better given to ``model`` in ``channels_last``.

    Args:
        model: in the mode that it is run in.
        image: one image; what is measured are copies of it.
        run: a pass over a batch. It is called some times, without a graph; the state of random generators is kept.
        most: images per pass.
        halves: passes are made in 16 bits, whatever the image's dtype; on a GPU channels_last then wins, and only then.
    """
    halves = halves or image.dtype.itemsize == 2
    convolves = image.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules())
    if not convolves or not (image.device.type == "cpu" or (image.device.type == "cuda" and halves)):
        return False
    key = (_kind(model), tuple(image.shape[1:]), image.dtype, image.device, halves, torch.get_num_threads())
    with _lock:  # threads that come meanwhile wait for what is found, and are not in its way
        if key not in _known:
            _known[key] = _measured(image[:1].detach().expand(min(most, _IMAGES), *image.shape[1:]), run)
        return _known[key]


def laid_out(images: Tensor, channels_last: bool) -> Tensor:
    """``images`` in one of the two formats."""
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _kind(model: nn.Module) -> tuple[Any, ...]:
    """What a model and its copies have in common: names and shapes of what it holds."""
    return type(model), *((name, tuple(value.shape), value.dtype) for name, value in model.named_parameters())


def _measured(batch: Tensor, run: Callable[[Tensor], Any]) -> bool:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    batches = {channels_last: laid_out(batch, channels_last) for channels_last in seconds}
    with torch.random.fork_rng(devices=[batch.device] if batch.is_cuda else []), torch.no_grad():
        for _ in range(1 if batch.is_cuda else _ROUNDS):
            for channels_last, images in batches.items():
                start = time.perf_counter()
                try:
                    run(images)
                except Exception:  # such as a view of what is taken to be contiguous; what is wrong in any format the
                    return False  # pass that is asked for will say
                seconds[channels_last].append(time.perf_counter() - start)
    return batch.is_cuda or min(seconds[False]) >= _CLEARLY * min(seconds[True])
