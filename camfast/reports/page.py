"""The page of a report: what needs no script is in it, everything else is drawn by its script from the data beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from ..pictures import look
from . import views

__all__ = ["MARK", "as_page"]

MARK = '<meta name="generator" content="camfast report">'
"""What an index.html that was written here has in its head."""

LISTED = 100
"""So many unreadable files are listed; all are in unreadable.csv."""


def as_page(
    title: str,
    facts: Sequence[tuple[str, Any]],
    images: views.Images,
    pairs: int,
    unreadable: Sequence[tuple[str, str]],
    scripts: Sequence[str],
) -> str:
    """The HTML. ``facts`` are names and values of the run's settings, ``scripts`` the files that are loaded at once."""
    parts = {
        "title": html.escape(title),
        "tiles": _tiles(images, pairs, len(unreadable)),
        "facts": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts),
        "unreadable": _unreadable(unreadable),
        "scripts": "\n".join(f'<script src="{html.escape(file)}"></script>' for file in scripts),
    }
    page = look.page(__file__)
    for name, part in parts.items():
        page = page.replace(f"<!-- {name} -->", part)
    return page


def _tiles(images: views.Images, pairs: int, unreadable: int) -> str:
    labelled, wrong = int(images.labelled.sum()), int(images.wrong.sum())
    tiles = [(f"{len(images.label):,}", "images")]
    if labelled:
        tiles.append((f"{(labelled - wrong) / labelled:.1%}", f"right of {labelled:,} with a label"))
        tiles.append((f"{wrong:,}", "wrong"))
        tiles.append((f"{pairs:,}", "pair of classes confused" if pairs == 1 else "pairs of classes confused"))
    known = images.inside[images.inside == images.inside]
    if len(known):
        tiles.append((f"{known.mean():.1%}", f"of the heat inside the boxes, mean of {len(known):,}"))
    if unreadable:
        tiles.append((f"{unreadable:,}", "file unreadable" if unreadable == 1 else "files unreadable"))
    return "".join(f"<div><b>{value}</b> {what}</div>" for value, what in tiles)


def _unreadable(files: Sequence[tuple[str, str]]) -> str:
    if not files:
        return ""
    lines = "".join(f"<li>{html.escape(path)}: {html.escape(why)}</li>" for path, why in files[:LISTED])
    more = f"<li>and {len(files) - LISTED:,} more</li>" if len(files) > LISTED else ""
    link = '<a href="unreadable.csv">unreadable.csv</a>'
    return f"<details><summary>Files that could not be read</summary><ul>{lines}{more}</ul><p>{link}</p></details>"
