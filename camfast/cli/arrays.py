"""Arrays as a NumPy file, beside the pictures that they were drawn into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["save_arrays"]


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes ``arrays`` by their names; the file appears whole or not at all. Raises ``OSError`` where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
