"""One picture of a source: its place, what it shows, and where pictures come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Item", "Listed", "Source", "Streamed", "Unreadable"]


@dataclass(frozen=True)
class Item:
    """A picture's place in its source, and its label in the source's own words."""

    index: int
    path: str
    label: int | None = None  # in the numbering of the source
    label_name: str | None = None


class Unreadable(ValueError):
    """A picture that cannot be had: where it is, and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class Source:
    """Pictures and what is known of them.

    Attributes:
        kind: what it is, for messages.
        names: names of its classes in the order of its own label numbers, where it has any.
        folders: whether these are names of folders, which may stand for anything.
        by_path: whether a path tells a picture from all others; else its index does.
        place: what it was made of, in words.
    """

    kind: str = "source"
    names: Sequence[str] | None = None
    folders: bool = False
    by_path: bool = True
    place: str = ""

    def key(self, item: Item) -> str | int:
        """What tells a picture from all others, also at a second start."""
        return item.path if self.by_path else item.index


class Listed(Source):
    """A source in which each picture can be had by its number."""

    def __len__(self) -> int:
        raise NotImplementedError

    def item(self, index: int) -> Item:
        """What is known without loading the picture."""
        raise NotImplementedError

    def load(self, index: int) -> tuple[Item, Any]:
        """The picture: an array ``[H, W, 3]``, a PIL image or a tensor. Raises whatever goes wrong."""
        raise NotImplementedError


class Streamed(Source):
    """A source that is read from the beginning to the end, in one or several shards."""

    shards: Sequence[str] = ("",)
    own_workers: bool = False  # whether it decodes in processes of its own

    def read(self, shard: int) -> Iterator[tuple[Item, Any] | Unreadable]:
        """The pictures of one shard, in order."""
        raise NotImplementedError
