"""The look of camfast's pages: one file of HTML each, with style and script inside, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

__all__ = ["page"]


def page(beside: str | Path) -> str:
    """The page whose ``.html``, ``.css`` and ``.js`` lie beside the module ``beside``, as one text.

    What all pages share, ``look.css``, comes before the page's own style. ``/* page.css */`` and ``/* page.js */`` are
    where style and script go.
    """
    html, style, script = (
        Path(beside).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".html", ".css", ".js")
    )
    shared = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return html.replace("/* page.css */", shared + style).replace("/* page.js */", script)
