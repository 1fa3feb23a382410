"""Fresh interpreters, for what a running one cannot show: imports, limits of the process, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import camfast

__all__ = ["WHERE", "run_python", "start_python"]

WHERE = Path(camfast.__file__).parents[1]
"""Where to start Python: it puts the working directory first on its path, and the source tree would hide an installed wheel."""


def run_python(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    """``python *arguments`` with its output captured, importing the same camfast as this process."""
    options = {"cwd": WHERE, "capture_output": True, "text": True, **options}
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def start_python(*arguments: str | Path, variables: dict[str, str] | None = None, **options) -> subprocess.Popen[str]:
    """The same without waiting: its words come through a pipe, and it sees what tests share."""
    paths = [str(WHERE), os.path.dirname(__file__)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})}
    options = {"cwd": WHERE, "env": env, "stdout": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, *map(str, arguments)], **options)
