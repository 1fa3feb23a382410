"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Number", "aligned", "printable"]


def aligned(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """``rows`` below ``head``, in columns as wide as they need; numbers are set to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], (int, float, Number)) for row in rows) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, cells)])


def printable(text: str) -> str:
    """``text`` with what steers a terminal written out: names of files may hold line breaks and escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Number(str):
    """A number already written out, such as "12.3 %": set to the right."""

    __slots__ = ()
