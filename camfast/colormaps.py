"""Colour tables, public under a short name: :mod:`camfast.ops.colormaps`, which this module is."""

from __future__ import annotations

import sys

from .ops import colormaps
from .ops.colormaps import *  # noqa: F403  (for type checkers)

sys.modules[__name__] = colormaps
