"""Optional packages: imported where they are needed, with a message that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Imports ``module``, or raises an ``ImportError`` that names the pip ``extra`` of camfast that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the package is there, something it needs is not: its own message says more
        package = module.partition(".")[0]
        raise ImportError(f'{package} is needed here: pip install "camfast[{extra}]"') from error
