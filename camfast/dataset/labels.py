"""Which class of the network a source's label is: by its name, or by its number where the numbers are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..targets import find_class
from .items import Item, Source

__all__ = ["Folders", "Truth"]

Folders = Literal["auto", "classes", "ignore"]


class Truth:
    """From the source's labels to the network's classes.

    A source with class names of its own (folders, a data set's ``classes``) may number them otherwise than the network
    does. "auto" takes each name for the network's class of that name; where none is known there, and there are as many as
    the network has classes, they are those in their order; else labels stay unknown. "classes" takes them in their order
    without a look, "ignore" takes no label at all.

    Args:
        source: where the labels come from.
        class_names: the network's.
        classes: their number, where it is known.
        rule: as above.
    """

    def __init__(
        self, source: Source, class_names: Sequence[str] | None, classes: int | None, rule: Folders = "auto"
    ) -> None:
        self.class_names, self.rule = class_names, rule
        self.names = source.names
        self.numbers: list[int | None] | None = None
        self._by_name: dict[str, int | None] = {}
        self.said = True  # whether a label's name is worth telling
        if source.names is None or rule == "ignore":
            return
        self.numbers = list(range(len(source.names)))
        if rule == "auto":
            named = [self.named(name) for name in source.names]
            if any(number is not None for number in named):
                self.numbers = named
            elif classes != len(source.names):
                self.numbers = [None] * len(source.names)
                self.said = not source.folders  # "monday" is no class

    def named(self, name: str) -> int | None:
        """The network's class of that name; None where there is none, or several."""
        if name not in self._by_name:
            try:
                number = None if self.class_names is None else find_class(name, self.class_names)
                if number is not None and name.strip().isdecimal() and name not in (self.class_names or ()):
                    number = None  # folders called 1, 2, 10 are not in the order of their numbers
            except ValueError:
                number = None
            self._by_name[name] = number
        return self._by_name[name]

    def __call__(self, item: Item) -> tuple[int | None, str | None]:
        """The network's class of ``item``, and its name, each None where it is not known."""
        if self.rule == "ignore":
            return None, None
        if item.label is None:
            return (None, None) if item.label_name is None else (self.named(item.label_name), item.label_name)
        if self.numbers is None or self.names is None:
            known = self.class_names is not None and item.label < len(self.class_names)
            return item.label, self.class_names[item.label] if known and self.class_names is not None else None
        if item.label >= len(self.numbers):
            return None, None
        return self.numbers[item.label], self.names[item.label] if self.said else None
