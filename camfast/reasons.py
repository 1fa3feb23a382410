"""Why something failed, as one line for a person."""

from __future__ import annotations

__all__ = ["reason"]


def reason(error: BaseException) -> str:
    """The first line of ``error``'s message that says something, without the full stop; its type where none does."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next((line for line in lines if line not in ("", "None")), type(error).__name__)
