"""Whether to follow pytorch-grad-cam where its numbers are wrong."""

from __future__ import annotations

from .. import is_strict as _is_strict

__all__ = ["is_strict"]


def is_strict() -> bool:
    """The package's attribute ``strict``; where that is None, the environment variable ``CAMFAST_COMPAT_STRICT``."""
    return _is_strict("pytorch_grad_cam")
