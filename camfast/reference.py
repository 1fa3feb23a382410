"""The ops in plain PyTorch, public under a short name: :mod:`camfast.ops.reference`, which this module is."""

from __future__ import annotations

import sys

from .ops import reference
from .ops.reference import *  # noqa: F403  (for type checkers)

sys.modules[__name__] = reference
