"""Where methods are registered: one line beside each class puts it among :data:`METHODS` and gives its function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from ..model.inputs import Images
from ..model.layers import Layer
from ..targets import Targets
from .explainer import Explainer
from .explanation import Explanation

__all__ = ["METHODS", "Method", "register"]

METHODS: dict[str, type[Explainer]] = {}
"""Every method, by the name of its function."""


class Method(Protocol):
    """A method as a function of one call."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        targets: Targets = None,
        layers: Layer | Sequence[Layer] | None = None,
        **options: Any,
    ) -> Explanation: ...


def register(cls: type[Explainer]) -> Method:
    """Puts ``cls`` among :data:`METHODS`, by its ``name``, and returns it as a function of one call.

    Raises ``ValueError`` where another class has the name; a class defined again, as in a notebook, takes its own place.
    """
    known = METHODS.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"expected a name that no method has, got {cls.name!r}, the name of {known.__name__}")
    METHODS[cls.name] = cls

    def explain(
        model: nn.Module,
        images: Images,
        targets: Targets = None,
        layers: Layer | Sequence[Layer] | None = None,
        **options: Any,
    ) -> Explanation:
        call = {name: options.pop(name) for name in ("size", "normalize") if name in options}
        return cls(model, layers, **options)(images, targets, **call)

    explain.__name__ = explain.__qualname__ = cls.name
    explain.__doc__ = f"""{(cls.__doc__ or "").splitlines()[0]}

    ``model``, ``images``, ``targets`` and ``layers`` are those of :class:`camfast.{cls.__name__}`; its options and
    those of its call may follow: ``reshape``, ``eval_mode``, ``class_names``, ``fuse``, ``size``, ``normalize``, .... For
    many calls on one model, make an explainer of the class and keep it.
    """
    return explain
