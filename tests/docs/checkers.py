"""mypy and pyright over files of user code, against the camfast that this process has imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import camfast

__all__ = ["CHECKERS", "errors"]

CHECKERS = ("mypy", "pyright")

Errors = dict[tuple[str, int], str]


def errors(checker: str, folder: Path) -> Errors:
    """What ``checker`` finds wrong in the files of ``folder``: messages by file name and line."""
    return {"mypy": _of_mypy, "pyright": _of_pyright}[checker](folder, _sources())


def _sources() -> list[str]:
    """Where camfast's sources are. An installed package is found by itself, and mypy wants it named nowhere."""
    here = Path(camfast.__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    return [] if here in installed else [str(here)]


def _of_mypy(folder: Path, sources: list[str]) -> Errors:
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    if sources:
        environment["MYPYPATH"] = os.pathsep.join(sources)
    options = ("--follow-imports=silent", "--ignore-missing-imports", "--config-file=", "--no-error-summary")
    done = _run([sys.executable, "-m", "mypy", *options, "."], folder, environment)
    lines = done.stdout.splitlines()
    found = [match for line in lines if (match := re.match(r"(.+?):(\d+): error: (.*)", line))]
    assert done.returncode == (1 if found else 0), done.stdout + done.stderr
    return {(match[1], int(match[2])): match[3] for match in found}


def _of_pyright(folder: Path, sources: list[str]) -> Errors:
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": sources, "reportMissingImports": False}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = _run(command, folder, {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    report = json.loads(done.stdout)
    files = [file for file in folder.iterdir() if file.suffix in (".py", ".pyi")]
    assert report["summary"]["filesAnalyzed"] == len(files), done.stdout + done.stderr
    found = [one for one in report["generalDiagnostics"] if one["severity"] == "error"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"] for one in found}


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
