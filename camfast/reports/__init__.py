"""Reports: one folder of HTML about a data set run, which opens from disk: where the network is wrong, and why."""

from __future__ import annotations

from .whole import heat_on_photo
from .write import report

__all__ = ["heat_on_photo", "report"]
