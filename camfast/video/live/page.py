"""The page of ``camfast live``: nothing from elsewhere, all in one answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["page"]


@cache
def page() -> str:
    """The page's HTML, with its style and its script inside; they lie beside this module."""
    html, style, script = (
        Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".html", ".css", ".js")
    )
    return html.replace("/* page.css */", style).replace("/* page.js */", script)
