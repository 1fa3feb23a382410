"""Networks that once had a silent wrong map, made simple: what is not named is the first option."""

from __future__ import annotations

from typing import Any

KEPT: dict[str, dict[str, Any]] = {}
