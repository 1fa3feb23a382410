"""Whether to follow pytorch-grad-cam where its numbers are wrong."""

from __future__ import annotations

import os
import sys

__all__ = ["is_strict"]


def is_strict() -> bool:
    """The package's attribute ``strict``; where that is None, the environment variable ``CAMFAST_COMPAT_STRICT``."""
    strict = sys.modules[__package__].strict
    return os.environ.get("CAMFAST_COMPAT_STRICT", "0") not in ("", "0") if strict is None else bool(strict)
