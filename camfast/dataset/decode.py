"""Pictures decoded and prepared in worker processes, and handed over in batches.

What one picture raises is listed with it and stops nothing. Photographs stay bytes until they are on the network's
device: a quarter of the memory to hand over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..brief import Brief
from ..errors import reason, require
from ..pictures import photos
from ..pictures.preparation import Preparation
from .items import Item, Listed, Source, Streamed, Unreadable

__all__ = ["Batch", "Fact", "Prepare", "batches", "collate", "usual_workers"]


@dataclass(frozen=True)
class Fact:
    """A picture's item, its size, and the part of it that the network saw: left, top, right, bottom."""

    item: Item
    height: int
    width: int
    crop: tuple[float, float, float, float] | None


@dataclass(repr=False)
class Batch(Brief):
    """Pictures of one size each group, ``[n, ...]``, with their facts; and those that could not be had."""

    groups: list[tuple[Tensor, list[Fact]]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


class Prepare:
    """From a picture of any kind to a tensor: uint8 ``[h, w, 3]`` yet to be scaled, or the network's input itself.

    Args:
        preparation: a :class:`~camfast.pictures.preparation.Preparation`, or a callable from a PIL image to a tensor;
            None for sources of prepared tensors.
    """

    def __init__(self, preparation: Preparation | Callable[[Any], Tensor] | None) -> None:
        self.preparation = preparation

    def __call__(self, item: Item, picture: Any) -> tuple[Fact, Tensor]:
        """The picture's facts and its tensor. Raises ``ValueError`` or ``TypeError`` for what is no picture."""
        if isinstance(picture, Tensor) and picture.is_floating_point():
            if picture.ndim != 3:
                raise ValueError(f"expected a prepared picture [C, H, W], got {list(picture.shape)}")
            height, width = picture.shape[1:]
            return Fact(item, height, width, (0.0, 0.0, float(width), float(height))), picture
        photo = _photo(picture)
        height, width = photo.shape[:2]
        if isinstance(self.preparation, Preparation):
            box = tuple(map(float, self.preparation.box(height, width)))
            return Fact(item, height, width, box), self.preparation.cut(photo)  # type: ignore[arg-type]
        if self.preparation is None:
            raise TypeError(f"expected a prepared tensor, got {type(picture).__name__}; preparation= makes one of it")
        from PIL import Image

        made = self.preparation(Image.fromarray(photo))
        if not (isinstance(made, Tensor) and made.is_floating_point() and made.ndim == 3):
            what = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise TypeError(f"expected preparation to give a float tensor [C, H, W], got {what}")
        return Fact(item, height, width, None), made

    def scaled(self, images: Tensor) -> Tensor:
        """The network's input, on the device of ``images``, which :meth:`__call__` made."""
        if images.dtype == torch.uint8 and isinstance(self.preparation, Preparation):
            return self.preparation.scaled(images)
        return images


def _photo(picture: Any) -> np.ndarray:
    """RGB, uint8 ``[H, W, 3]``."""
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.ndim == 3 and picture.shape[0] == 3:
        return picture.permute(1, 2, 0).contiguous().numpy()
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return np.ascontiguousarray(picture)
    require("PIL", "vision")
    from PIL import Image, ImageOps

    if isinstance(picture, Image.Image):
        return np.array(photos.to_rgb(ImageOps.exif_transpose(picture)))
    shape = f" {list(picture.shape)} of {picture.dtype}" if hasattr(picture, "shape") else ""
    raise TypeError(f"expected a PIL image, uint8 RGB or a prepared tensor, got {type(picture).__name__}{shape}")


Sample = tuple[Fact, Tensor] | Unreadable


def sample_of(entry: tuple[Item, Any] | Unreadable, prepare: Prepare) -> Sample:
    """One picture prepared, or why it is not."""
    if isinstance(entry, Unreadable):
        return entry
    item, picture = entry
    try:
        return prepare(item, picture)
    except Exception as error:  # of preparations that users wrote, too
        return Unreadable(item.path, reason(error))


def loaded(source: Listed, index: int, prepare: Prepare) -> Sample:
    """The picture ``index``, loaded and prepared, or why it is not."""
    try:
        entry = source.load(index)
    except Exception as error:  # decoders and data sets raise anything
        path = source.item(index).path
        return Unreadable(path, str(error).removeprefix(f"cannot read {path}: ") or type(error).__name__)
    return sample_of(entry, prepare)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples; pictures of one shape and dtype are a group."""
    batch = Batch()
    together: dict[Any, list[tuple[Fact, Tensor]]] = {}
    for sample in samples:
        if isinstance(sample, Unreadable):
            batch.unreadable.append(sample)
        else:
            together.setdefault((sample[1].shape, sample[1].dtype), []).append(sample)
    for group in together.values():
        batch.groups.append((torch.stack([tensor for _, tensor in group]), [fact for fact, _ in group]))
    return batch


class _ByNumber(Dataset):
    def __init__(self, source: Listed, prepare: Prepare) -> None:
        self.source, self.prepare = source, prepare

    def __getitem__(self, index: int) -> Sample:
        return loaded(self.source, index, self.prepare)


class _InOrder(IterableDataset):
    """A stream's samples without those that are done; workers share its shards out."""

    def __init__(self, source: Streamed, prepare: Prepare, done: Collection[str | int]) -> None:
        self.source, self.prepare, self.done = source, prepare, done

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for shard in range(first, len(self.source.shards), step):
            yield from samples_of(self.source, shard, self.prepare, self.done)


def samples_of(source: Streamed, shard: int, prepare: Prepare, done: Collection[str | int]) -> Iterator[Sample]:
    """The samples of one shard that are not done."""
    for entry in source.read(shard):
        if isinstance(entry, Unreadable) or source.key(entry[0]) not in done:
            yield sample_of(entry, prepare)


def usual_workers() -> int:
    """Half of the processors, at most eight: the network needs the rest."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, count // 2))


def batches(
    source: Source,
    prepare: Prepare,
    batch: int,
    workers: int,
    pending: Sequence[int] | None = None,
    done: Collection[str | int] = (),
) -> Iterator[Batch]:
    """The pictures of ``source`` in batches of up to ``batch``, decoded in ``workers`` processes (0: in this one).

    ``pending`` are the numbers of those to do, for a listed source; ``done`` the keys of those to leave out, for a stream.
    """
    data: Dataset
    options: dict[str, Any] = {"batch_size": batch, "collate_fn": collate}
    if isinstance(source, Listed):
        data = _ByNumber(source, prepare)
        options["sampler"] = list(range(len(source)) if pending is None else pending)
    else:
        assert isinstance(source, Streamed)
        data = _InOrder(source, prepare, done)
        workers = 0 if source.own_workers else min(workers, len(source.shards))
    with torch.random.fork_rng(devices=[]):  # the loader draws a seed for its workers
        loader = iter(DataLoader(data, num_workers=workers, **options))
    yield from loader
