"""From what a detector returned to boxes, scores and the numbers to explain: a file for each form of output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...model.outputs import described
from .base import Candidates, Masks
from .mappings import of_mappings
from .queries import of_queries
from .rows import of_rows

__all__ = ["FORMS", "Candidates", "Masks", "candidates_of"]

Form = Callable[[Any, Sequence[tuple[int, int]], int | None], Candidates | None]
"""``(output, size (H, W) of each image, number of classes where it is known) -> candidates``, or None: another form."""

FORMS: tuple[Form, ...] = (of_mappings, of_queries, of_rows)
"""The forms that are known, in the order in which they are tried."""


def candidates_of(output: Any, sizes: Sequence[tuple[int, int]], classes: int | None = None) -> Candidates:
    """The candidates in what a detector returned for images of ``sizes``.

    Raises ``TypeError`` for a form that is not known.
    """
    for form in FORMS:
        found = form(output, sizes, classes)
        if found is not None:
            return found
    raise TypeError(
        "expected a detector's boxes and scores (mappings with boxes, labels and scores; logits and pred_boxes; a table "
        f"[N, 4 + classes, anchors]), got {described(output)}; candidates= reads any other output"
    )
