"""Does something once torch has been imported, without importing it.

``import camfast`` alone registers ``torch.ops.camfast.*``, so that exported programs which call them can be loaded. It does
not import torch for it: the command line answers ``--help`` in a tenth of the time that takes.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

__all__ = ["after_torch"]


def after_torch(action: Callable[[], object]) -> None:
    """Calls ``action`` now where torch has been imported, else as the last part of ``import torch``.

    In the latter case an ``ImportError`` or ``OSError`` of ``action`` does not reach ``import torch``, which is not to
    blame: ``action`` must be one that fails again when its result is used.
    """
    if "torch" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _TorchFinder(action))


class _TorchFinder(importlib.abc.MetaPathFinder):
    """Finds torch where the finders behind it find it, and has ``action`` follow its import."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        loader = None if spec is None else spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:  # a torch that could not be imported is looked for again
                sys.meta_path.remove(self)
                with contextlib.suppress(ImportError, OSError):
                    self._action()

        loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
