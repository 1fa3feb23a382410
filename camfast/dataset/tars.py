"""WebDataset shards as a source: tar files of pictures and labels, on disk, behind an address or a command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import require
from ..pictures import photos
from .items import Item, Streamed, Unreadable

__all__ = ["Tars", "is_tars"]

PICTURES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif", "img", "image")
SHARD = 2**32
"""Positions count from so much for each shard, so that shards can be read side by side."""


def is_tars(place: str) -> bool:
    """Whether ``place`` names tar shards: a file, a pattern with braces, an address or a command."""
    bare = place.partition("?")[0]
    return bare.endswith((".tar", ".tar.gz", ".tgz")) or place.startswith("pipe:")


class Tars(Streamed):
    """The pictures of tar shards; ``cls`` or ``json`` beside a picture holds its label."""

    kind = "WebDataset"

    def __init__(self, places: Sequence[str]) -> None:
        lists = require("webdataset.shardlists", "dataset")
        self.shards = [_full(url) for place in places for url in lists.expand_urls(os.path.expanduser(place))]
        if not self.shards:
            raise ValueError(f"expected tar shards, got none that match {places[0]}")
        missing = [url for url in self.shards if os.path.isabs(url) and not os.path.exists(url)]
        if missing:
            raise ValueError(f"expected tar shards, got {missing[0]}, which does not exist")
        self.place = _full(str(places[0]))

    def read(self, shard: int) -> Iterator[tuple[Item, Any] | Unreadable]:
        wds = require("webdataset", "dataset")
        url = self.shards[shard]
        whole = wds.WebDataset([url], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False)
        samples = iter(whole)
        position = 0
        while True:
            try:
                sample = next(samples)
            except StopIteration:
                return
            except Exception as error:  # of archives cut short, of commands and addresses that fail
                first = (
                    error.args[0] if error.args else type(error).__name__
                )  # webdataset adds where it was to the rest
                yield Unreadable(url, f"the shard ends early: {str(first).strip().rstrip('.')}")
                return
            yield _read(sample, url, shard * SHARD + position)
            position += 1


def _read(sample: dict[str, Any], url: str, index: int) -> tuple[Item, Any] | Unreadable:
    key = sample["__key__"]
    ending = next((name for name in sample if name.rpartition(".")[2].lower() in PICTURES), None)
    if ending is None:
        held = ", ".join(name for name in sample if not name.startswith("__")) or "nothing"
        return Unreadable(f"{url}/{key}", f"it holds no picture, but {held}")
    path = f"{url}/{key}.{ending}"
    label, name = _label(sample)
    try:
        return Item(index, path, label, name), photos.read(path, sample[ending])
    except photos.PhotoError as error:
        return Unreadable(path, str(error).removeprefix(f"cannot read {path}: "))


def _label(sample: dict[str, Any]) -> tuple[int | None, str | None]:
    text: Any = sample.get("cls")
    if text is None and "json" in sample:
        try:
            facts = json.loads(sample["json"])
            text = facts.get("label") if isinstance(facts, dict) else None
        except ValueError:
            return None, None
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace").strip()
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text, None
    if isinstance(text, str) and text:
        return (int(text), None) if text.isascii() and text.isdecimal() else (None, text)
    return None, None


def _full(url: str) -> str:
    """An absolute path; addresses and commands as they are."""
    return url if ":" in url else os.path.abspath(url)
