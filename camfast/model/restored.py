"""What a pass changes meanwhile, put back whenever it ends: also by an interrupt, and at whatever line that comes.

A ``finally`` alone does not do that. An interrupt may come between a change and the ``try`` that follows it, or inside the
``finally`` itself. Therefore the step back is noted *before* the change; steps may be taken twice, and are: what an interrupt
leaves of the first round the second does. What is forgotten altogether is put back as soon as nothing refers to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["LeftOnce", "Restored", "thread_kept"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_MARKS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


_MISSING = object()


class Restored:
    """Steps back from what was changed, the last one first: at the end of a ``with``, or by :meth:`close`.

    A step must do no harm where its change was never made, nor when it is taken again.
    """

    def __init__(self) -> None:
        self.failed = False
        """Whether what the changes were made for did not come to its end."""
        self._steps: list[Callable[[], Any]] = []

    def __enter__(self) -> Restored:
        return self

    def __exit__(self, *exception: object) -> None:
        self.failed = exception[0] is not None
        self.close()

    def back(self, step: Callable[[], Any]) -> None:
        """Notes a step back, before its change is made."""
        self._steps.append(step)

    def hook(self, module: nn.Module, function: Callable[..., Any], before: bool = False, **options: Any) -> None:
        """Registers a forward hook (``before``: a pre-hook), and notes its removal."""
        self.back(lambda: _unhook(module, function))
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        register(function, **options)

    def set(self, holder: Any, name: str, value: Any) -> None:
        """Sets an attribute of an object or a module of Python, and notes its return to what it was."""
        before = vars(holder).get(name, _MISSING)
        self.back(lambda: _put_back(holder, name, before))
        setattr(holder, name, value)

    def enter(self, context: AbstractContextManager[Any]) -> None:
        """Enters a context, and notes its end."""
        entered: list[Any] = []
        self.back(lambda: (entered[-1][0].__exit__(None, None, None), entered.pop()) if entered else None)
        entered.append((context, context.__enter__()))  # in one line, which no interrupt of Python's divides

    def close(self) -> None:
        """Takes all steps; an interrupt meanwhile is let through once they are taken."""
        try:
            self._undo()
        finally:
            self._undo()

    def _undo(self) -> None:
        steps = self._steps
        error: BaseException | None = None
        while steps:
            try:
                steps[-1]()
            except Exception as failure:  # the other steps are taken all the same
                error = failure
            steps.pop()
        if error is not None:
            raise error

    def __del__(self) -> None:
        if self._steps:
            self.failed = True
            self.close()


class LeftOnce(TorchFunctionMode):
    """A mode of functions that may be left twice: by :func:`thread_kept`, after an interrupt, and by its own ``with``."""

    def __exit__(self, *exception: Any) -> None:
        depth = torch._C._len_torch_function_stack()
        if depth and torch._C._get_function_stack_at(depth - 1) is self:
            super().__exit__(*exception)


def thread_kept(function: _Function) -> _Function:
    """``function``, after which this thread records gradients as before and has the modes that it had, whatever ends it.

    PyTorch's own contexts, ``no_grad()`` and modes of functions among them, are left in their ``__exit__`` alone, and an
    interrupt may come just before it. So the outermost calls look after the thread as a whole.
    """

    @functools.wraps(function)
    def kept(*args: Any, **kwargs: Any) -> Any:
        graphs, modes = torch.is_grad_enabled(), torch._C._len_torch_function_stack()
        with Restored() as restored:
            restored.back(lambda: _thread_back(graphs, modes))
            return function(*args, **kwargs)

    return cast("_Function", kept)


def _thread_back(graphs: bool, modes: int) -> None:
    while torch._C._len_torch_function_stack() > modes:
        torch._C._pop_torch_function_stack()
    torch._C._set_grad_enabled(graphs)


def _put_back(holder: Any, name: str, before: Any) -> None:
    if before is not _MISSING:
        setattr(holder, name, before)
    elif name in vars(holder):
        delattr(holder, name)


def _unhook(module: nn.Module, function: Callable[..., Any]) -> None:
    """Takes ``function`` off ``module``, whether or not its registration has come to its end."""
    for name in _HOOKS:
        hooks = module.__dict__.get(name, {})
        for key in [key for key, hook in hooks.items() if hook is function]:
            for mark in _MARKS:
                module.__dict__.get(mark, {}).pop(key, None)
            hooks.pop(key, None)
