"""A table of methods and metrics: printed, in notebooks, and as CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

__all__ = ["Cell", "Table"]


@dataclass(frozen=True)
class Cell:
    """The mean over the maps that could be measured, its standard error, and how many these were."""

    mean: float
    error: float
    count: int


@dataclass(repr=False)
class Table:
    """Rows are methods, columns are metrics.

    Attributes:
        methods: names of the rows.
        metrics: names of the columns.
        better: of each column, ``"higher"`` or ``"lower"``.
        cells: by row and column.
        milliseconds: per image of each method's explanations.
    """

    methods: list[str]
    metrics: list[str]
    better: list[Literal["higher", "lower"]]
    cells: list[list[Cell]]
    milliseconds: list[float]

    @property
    def rows(self) -> list[dict[str, str | float]]:
        """One dict per method: its name, each metric's mean and standard error, and the milliseconds per image."""
        found = []
        for method, cells, milliseconds in zip(self.methods, self.cells, self.milliseconds, strict=True):
            row: dict[str, str | float] = {"method": method}
            for metric, cell in zip(self.metrics, cells, strict=True):
                row |= {metric: cell.mean, f"{metric}_error": cell.error, f"{metric}_count": cell.count}
            found.append({**row, "milliseconds": milliseconds})
        return found

    def best(self, column: int) -> float:
        """The best mean of a metric; NaN where all methods have the same, or none has any."""
        means = [row[column].mean for row in self.cells if row[column].mean == row[column].mean]
        if len(set(means)) < 2:
            return float("nan")
        return (max if self.better[column] == "higher" else min)(means, default=float("nan"))

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """The rows as CSV, which is also written to ``path``."""
        text = io.StringIO()
        rows = self.rows
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["method"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table for a page of documentation; the best of each metric is bold."""
        head, rows = self._text(("**", "**"))
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def __str__(self) -> str:
        head, rows = self._text(("", " *"))
        rows = [[row[0], *(cell if cell.endswith("*") else f"{cell}  " for cell in row[1:])] for row in rows]
        head = [head[0], *(f"{word}  " for word in head[1:])]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

        def line(row: Sequence[str]) -> str:
            first, *others = zip(row, widths, strict=True)
            return " ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

        return "\n".join([line(head), *map(line, rows), "* the best of its column; ^ more is better, v less is better"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows = self._text(("<b>", "</b>"))
        cells = "".join(f"<th>{html.escape(word)}</th>" for word in head)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><tr>{cells}</tr>{body}</table>"

    def _text(self, mark: tuple[str, str]) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text, the best of each column between ``mark``."""
        arrows = {"higher": "^", "lower": "v"}
        head = [f"{name} {arrows[better]}" for name, better in zip(self.metrics, self.better, strict=True)]
        rows = []
        for method, cells, milliseconds in zip(self.methods, self.cells, self.milliseconds, strict=True):
            texts = []
            for column, cell in enumerate(cells):
                text = "-" if cell.mean != cell.mean else f"{cell.mean:.3f}"
                best = cell.mean == self.best(column)
                texts.append(f"{mark[0]}{text}{mark[1]}" if best else text)
            rows.append([method, *texts, f"{milliseconds:.1f}"])
        return ["method", *head, "ms"], rows
