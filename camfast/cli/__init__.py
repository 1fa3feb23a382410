"""The command line: ``camfast image``, ``features``, ``layers``, ``video``, ``live``, ..., a module each."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
