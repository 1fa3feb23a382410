"""torchcam's interface (0.5.0) over camfast: change the import line, keep the script.

Where torchcam is wrong the corrected value is the default; ``strict`` (set it here, or CAMFAST_COMPAT_STRICT=1) gives
torchcam's own. ``docs/migrate/torchcam.md`` lists every name.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from types import ModuleType

__all__ = ["explain", "methods", "metrics", "utils", "version"]

__version__ = "0.5.0"
"""The version of torchcam whose interface this is."""

strict: bool | None = None
"""Whether torchcam's own numbers are wanted where it is wrong; None leaves it to CAMFAST_COMPAT_STRICT. Read at every call."""


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
