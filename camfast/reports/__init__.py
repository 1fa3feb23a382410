"""Reports: one folder of HTML about a data set run, which opens from disk: where the network is wrong, and why."""

from __future__ import annotations

from .report import report

__all__ = ["report"]
