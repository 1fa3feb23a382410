"""Where methods are registered: one line beside each class puts it among :data:`METHODS` and gives its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from torch import nn

from ..model.inputs import Images
from ..targets import Targets
from .explainer import Explainer, Size
from .explanation import Explanation
from .ranges import Normalize
from .signatures import bound

__all__ = ["METHODS", "Method", "register"]

METHODS: dict[str, type[Explainer]] = {}
"""Every method, by the name of its function."""

Options = ParamSpec("Options")
Layers = TypeVar("Layers", contravariant=True)
Result = TypeVar("Result", bound=Explanation, covariant=True)

_CALL = ("images", "targets", "size", "normalize")
_OF_MANY_CALLS = ("graph", "compile")  # options of classes alone: a function's explainer is called once


class Explains(Protocol[Result]):
    """What a class of methods makes: an explainer."""

    def __call__(
        self, images: Images, targets: Targets = None, size: Size = None, normalize: Normalize = True
    ) -> Result: ...


class Method(Protocol[Layers, Options, Result]):
    """A method as a function of one call: the arguments of its class, and those of the class's call."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        targets: Targets = None,
        layers: Layers | None = None,
        size: Size = None,
        normalize: Normalize = True,
        *args: Options.args,
        **options: Options.kwargs,
    ) -> Result: ...


def register(
    cls: Callable[Concatenate[nn.Module, Layers, Options], Explains[Result]],
) -> Method[Layers, Options, Result]:
    """Puts ``cls``, an :class:`~camfast.Explainer`, among :data:`METHODS`, by its ``name``; returns it as a function.

    Args:
        cls: a class of explainers. Its first arguments are the model and the layers, the others have keywords.

    Returns:
        A function of one call, ``(model, images, targets, layers, size, normalize, **options)``.

    Raises:
        ValueError: where another class has the name; a class defined again, as in a notebook, takes its own place.
    """
    own = cast("type[Explainer]", cls)
    known = METHODS.get(own.name)
    if known is not None and (known.__module__, known.__qualname__) != (own.__module__, own.__qualname__):
        raise ValueError(f"expected a name that no method has, got {own.name!r}, the name of {known.__name__}")
    METHODS[own.name] = own

    def explain(*args: Any, **options: Any) -> Any:
        for option in _OF_MANY_CALLS:
            if options.get(option):
                made = f"explainer = {own.__name__}(model, {option}={options[option]!r})"
                raise TypeError(
                    f"{own.name}() explains one call and is gone; for calls that come again keep an explainer: {made}"
                )
        if "differentiable" in options:
            made = f"explainer = {own.__name__}(model), explainer(images, differentiable=True)"
            raise TypeError(f"{own.name}() explains one call and is gone; to train with heat keep an explainer: {made}")
        given = bound(f"{own.name}()", signature, args, options).arguments
        call = {name: given.pop(name) for name in _CALL if name in given}
        return own(**given)(**call)

    signature = _signature(own)
    explain.__signature__ = signature  # type: ignore[attr-defined]
    explain.__name__ = explain.__qualname__ = own.name
    explain.__module__ = own.__module__
    explain.__doc__ = f"""{(own.__doc__ or "").splitlines()[0]}

    ``model``, ``layers`` and the options are those of :class:`camfast.{own.__name__}`; ``images``, ``targets``, ``size``
    and ``normalize`` those of its call. For many calls on one model, make an explainer of the class and keep it.
    """
    return cast("Method[Layers, Options, Result]", explain)


def _signature(cls: type[Explainer]) -> Signature:
    """Of the function: the model, what its class's call takes, with the layers third, and the class's options."""
    of_class = inspect.signature(cls)
    call = inspect.signature(cls.__call__)
    first = [of_class.parameters["model"], call.parameters["images"], call.parameters["targets"]]
    if "layers" in of_class.parameters:
        first.append(of_class.parameters["layers"])
    given = {"model", "layers", *_OF_MANY_CALLS}
    options = [p for name, p in of_class.parameters.items() if name not in given]
    parameters = [
        *(parameter.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for parameter in first),
        call.parameters["size"],
        call.parameters["normalize"],
        *options,
    ]
    return Signature(parameters, return_annotation=call.return_annotation)
