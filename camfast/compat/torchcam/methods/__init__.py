"""Extractors: record a pass by hooks, then give maps for a class of its scores."""

from __future__ import annotations

from .activation import *
from .activation import __all__ as _activation
from .core import OutputTarget
from .gradient import *
from .gradient import __all__ as _gradient

__all__ = ["OutputTarget"]
__all__ += _activation
__all__ += _gradient
