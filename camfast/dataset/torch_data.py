"""Data sets and loaders of torch as a source: pictures or prepared tensors, with labels where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, WeightedRandomSampler

from ..errors import reason
from .items import Item, Listed, Streamed, Unreadable

__all__ = ["Loader", "OfDataset", "OfIterable"]

PICTURES = ("image", "img", "pixel_values", "images", "input", "x")
LABELS = ("label", "labels", "target", "fine_label", "y")


class OfDataset(Listed):
    """A data set with a length. Its entries are a picture, ``(picture, label, ...)`` or a mapping with such keys."""

    kind = "Dataset"
    by_path = False

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.names = names_of(dataset)
        self.place = f"{type(dataset).__name__} of {len(dataset)}"

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> Item:
        return Item(index, _path_of(self.dataset, index))

    def load(self, index: int) -> tuple[Item, Any]:
        picture, label = _parts(self.dataset[index])
        return Item(index, _path_of(self.dataset, index), *_label(label)), picture


class OfIterable(Streamed):
    """A data set without a length, read from its beginning."""

    kind = "IterableDataset"
    by_path = False

    def __init__(self, dataset: IterableDataset) -> None:
        self.dataset = dataset
        self.names = names_of(dataset)
        self.place = type(dataset).__name__

    def read(self, shard: int) -> Iterator[tuple[Item, Any] | Unreadable]:
        for index, entry in enumerate(self.dataset):
            yield _read(index, entry)


class Loader(Streamed):
    """A loader of batches in a fixed order, which decodes as it was told to."""

    kind = "DataLoader"
    by_path = False
    own_workers = True

    def __init__(self, loader: DataLoader) -> None:
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if isinstance(sampler, (RandomSampler, WeightedRandomSampler)):
                raise ValueError(
                    "expected a DataLoader in a fixed order, since a second start goes on by position, got one that "
                    "shuffles; pass shuffle=False"
                )
        self.loader = loader
        self.names = names_of(loader.dataset)
        self.place = f"DataLoader over {type(loader.dataset).__name__}"

    def read(self, shard: int) -> Iterator[tuple[Item, Any] | Unreadable]:
        index = 0
        for batch in self.loader:
            pictures, labels = _parts(batch)
            for n, picture in enumerate(pictures):
                label = None if labels is None else labels[n]
                path = str(index)
                yield Item(index, path, *_label(label)), picture
                index += 1


def names_of(dataset: Any) -> list[str] | None:
    """Names of the classes that a data set of torchvision or of Hugging Face tells of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if names is None and isinstance(features := getattr(dataset, "features", None), Mapping):
        names = next((getattr(features[key], "names", None) for key in LABELS if key in features), None)
    if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
        return list(names) or None
    return None


def _path_of(dataset: Any, index: int) -> str:
    """The file of an entry where the data set lists its files, as ImageFolder does; else its number."""
    place = index
    while isinstance(dataset, Subset):
        place, dataset = dataset.indices[place], dataset.dataset
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, Sequence) and len(samples) > place:
        first = samples[place][0] if isinstance(samples[place], Sequence) else None
        if isinstance(first, str):
            return first
    return str(index)


def _parts(entry: Any) -> tuple[Any, Any]:
    """Picture (or batch of pictures) and label."""
    if isinstance(entry, Mapping):
        key = next((key for key in PICTURES if key in entry), None)
        if key is None:
            raise ValueError(f"expected an entry with a picture under one of {', '.join(PICTURES)}, got {list(entry)}")
        return entry[key], next((entry[name] for name in LABELS if name in entry), None)
    if isinstance(entry, (tuple, list)) and entry and not isinstance(entry[0], (int, float)):
        return entry[0], entry[1] if len(entry) > 1 else None
    return entry, None


def _label(value: Any) -> tuple[int | None, str | None]:
    """A class's number or name; anything else, such as boxes, is no label."""
    if isinstance(value, str):
        return None, value
    if isinstance(value, torch.Tensor) and (value.numel() != 1 or value.dtype.is_floating_point):
        return None, None
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None, None
    return (number, None) if number >= 0 else (None, None)


def _read(index: int, entry: Any) -> tuple[Item, Any] | Unreadable:
    try:
        picture, label = _parts(entry)
    except ValueError as error:
        return Unreadable(str(index), reason(error))
    return Item(index, str(index), *_label(label)), picture
