"""What goes wrong, in words: a sentence for a person, and the extra that brings a missing package."""

from __future__ import annotations

import difflib
import importlib
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import ModuleType

__all__ = ["DoubtWarning", "NothingFound", "closest", "or_rather", "reason", "require", "warn", "why_no_file"]


FEW = 12
"""So many names are all given in a message."""


class DoubtWarning(UserWarning):
    """A result may not show what was asked for: what was seen, why, and what to do."""


class NothingFound(ValueError):
    """A detector found nothing in any image, so that there is nothing to explain."""

    def __init__(self) -> None:
        super().__init__(
            "the detector must find something to explain, got no detection in any image; a lower score threshold of the "
            "model shows what it was unsure of"
        )


_BETWEEN = ("camfast", "torch", "contextlib", "functools")  # packages through which a call passes on its way


def warn(words: str, category: type[Warning] = UserWarning) -> None:
    """Warns of the line that called into the library, however deep the doubt came up."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(words, category, stacklevel=level)


def reason(error: BaseException) -> str:
    """The first line of ``error``'s message that says something, without the full stop; its type where none does.

    OpenVINO's begin with the places in its own source that they came through.
    """
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    says = (line for line in lines if line not in ("", "None") and not line.startswith("Exception from "))
    return next(says, type(error).__name__)


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Why there is no file to read at ``path``, in a few words; empty where there is one.

    A pipe is none: opening it would wait until someone writes into it, which may be never.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "there is no such file"
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError) as error:  # links in a circle, a name that is too long or holds a NUL
        return (getattr(error, "strerror", None) or reason(error)).lower()
    if stat.S_ISREG(mode):
        return ""
    return "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device, no file"


def require(module: str, extra: str) -> ModuleType:
    """Imports ``module``, or raises an ``ImportError`` that names the pip ``extra`` of camfast that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the package is there, something it needs is not: its own message says more
        package = module.partition(".")[0]
        raise ImportError(f'{package} is needed here: pip install "camfast[{extra}]"') from error


def closest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Those of ``known`` that are closest to ``name``, each once, the closest first."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), count, cutoff)


def or_rather(near: Sequence[str], known: Iterable[str] = ()) -> str:
    """The end of a message about an unknown name: those it is close to, or else all ``known`` ones if they are few.

    Of many known ones the first are given, and how many there are.
    """
    if near:
        return f"; close to it: {', '.join(map(repr, near))}"
    names = list(dict.fromkeys(known))
    more = f", ... {len(names)} in all" if len(names) > FEW else ""
    return f"; there are {', '.join(map(repr, names[:FEW]))}{more}" if names else ""
