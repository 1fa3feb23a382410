"""The page of ``camfast live``: nothing from elsewhere, all in one answer."""

from __future__ import annotations

from functools import cache

from ...pictures import look

__all__ = ["page"]


@cache
def page() -> str:
    """The page's HTML, with its style and its script inside; they lie beside this module."""
    return look.page(__file__)
