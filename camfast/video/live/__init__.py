"""A stream explained while it runs, shown on a page in the browser."""

from __future__ import annotations

from .hub import Hub
from .keys import Keys
from .serve import serve
from .server import application
from .source import Source

__all__ = ["Hub", "Keys", "Source", "application", "serve"]
