"""Fresh interpreters, for what a running one cannot show: imports, limits of the process, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import camfast

__all__ = ["run_python"]


def run_python(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    """``python *arguments`` with its output captured, importing the same camfast as this process.

    Python puts the working directory first on its path: from the source tree an installed wheel would be hidden.
    """
    options = {"cwd": Path(camfast.__file__).parents[1], "capture_output": True, "text": True, **options}
    return subprocess.run([sys.executable, *map(str, arguments)], **options)
