"""Small pictures of the photographs that a report shows first; all others are drawn by the browser from their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import require
from ..pictures import photos

__all__ = ["SIDE", "write"]

SIDE = 480  # pixels of the longer side: sharp in a card of twice the pixels


def write(
    places: Iterable[tuple[int, Path]], folder: Path, done: Callable[[int], Any] = lambda count: None
) -> set[int]:
    """Writes ``NUMBER.jpg`` into ``folder`` for each photograph that can be read, and returns the numbers of these."""
    require("PIL", "vision")
    folder.mkdir()
    with ThreadPoolExecutor() as pool:  # decoders give Python's lock away
        written = set()
        for number, fine in pool.map(lambda place: (place[0], _one(place[0], place[1], folder)), places):
            written |= {number} if fine else set()
            done(1)
    return written


def _one(number: int, photo: Path, folder: Path) -> bool:
    from PIL import Image, ImageOps

    try:
        with Image.open(photo) as image:
            image.draft("RGB", (SIDE, SIDE))  # JPEG is decoded at a fraction of its size
            small = photos.to_rgb(ImageOps.exif_transpose(image))
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    except Exception:  # the run has read it, or it is no file at all: the page shows its heat without it
        return False
    small.save(folder / f"{number:06d}.jpg", quality=82)
    return True
