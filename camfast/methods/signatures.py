"""Signatures in full, for editors and ``help()``, and an answer to a wrong argument that names what was called.

The options that methods share are written once, as typed dictionaries (:class:`camfast.methods.explainer.Options`). Type
checkers expand ``**options: Unpack[Options]`` by themselves; for everything that looks at running code it is done here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import BoundArguments, Parameter, Signature
from typing import TYPE_CHECKING, Any, ClassVar

__all__ = ["NamesItsArguments", "bound", "signature_of"]

_OF_PEERS = {
    "category": "targets",
    "class_idx": "targets",
    "input": "images",
    "input_batch": "images",
    "input_tensor": "images",
    "reshape_transform": "reshape",
    "target_category": "targets",
    "target_layer": "layers",
    "target_layers": "layers",
}
"""What other libraries call an argument, where its closest spelling here would be another."""


def signature_of(cls: type) -> Signature:
    """What ``cls`` takes, the arguments that it hands on to its bases' constructors included."""
    found: dict[str, Parameter] = {}
    positional = True  # whether the constructors so far hand positional arguments on
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        kinds = {parameter.kind for parameter in own}
        for parameter in own:
            if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                continue
            if positional or parameter.kind is Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter)
        positional = positional and Parameter.VAR_POSITIONAL in kinds
        if Parameter.VAR_KEYWORD not in kinds:
            break
    if (other := getattr(cls, "options_of", None)) is not None:
        for parameter in signature_of(other).parameters.values():
            if parameter.kind is Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter)
    return Signature(sorted(found.values(), key=lambda parameter: parameter.kind))


def bound(called: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
    """The arguments by name; ``TypeError`` where they do not fit, which names what was ``called``."""
    unknown = next((name for name in kwargs if name not in signature.parameters), None)
    if unknown is not None:
        raise TypeError(f"{called} got an unexpected argument {unknown!r}{_advice(unknown, signature.parameters)}")
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{called}: {error}") from None


def _advice(name: str, known: Collection[str]) -> str:
    meant = _OF_PEERS.get(name)
    if meant not in known:
        meant = next(iter(difflib.get_close_matches(name, known, n=1)), None)
    return "" if meant is None else f"; did you mean {meant}=?"


class _OfTheClass:
    """``__signature__`` of a class, and not of its instances, which are called in another way."""

    def __get__(self, instance: object, owner: type) -> Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        if "_signature" not in vars(owner):
            owner._signature = signature_of(owner)  # type: ignore[attr-defined]
        return vars(owner)["_signature"]


class NamesItsArguments:
    """A class whose constructor shows every argument. A wrong one, there or in a call, is answered by the class's name."""

    options_of: ClassVar[type | None] = None  # another class, whose options it hands on to one of that

    __signature__ = _OfTheClass()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _checked(vars(cls)["__call__"])  # type: ignore[method-assign]

    if not TYPE_CHECKING:  # to a type checker __init__ alone is the constructor

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs:  # copies are made without any
                _check_constructor(cls, args, kwargs)
            return super().__new__(cls)


def _check_constructor(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    signature, call = inspect.signature(cls), inspect.signature(cls.__call__).parameters
    for name in kwargs:
        meant = _OF_PEERS.get(name, name)
        if name not in signature.parameters and meant in call and meant not in signature.parameters:
            raise TypeError(
                f"{cls.__name__}() got an unexpected argument {name!r}; {meant}= is one of its call: "
                f"{cls.__name__}(model)(images, {'' if meant == 'images' else f'{meant}='}...)"
            )
    bound(f"{cls.__name__}()", signature, args, kwargs)


def _checked(call: Callable[..., Any]) -> Callable[..., Any]:
    known = inspect.signature(call).parameters

    @functools.wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs and not kwargs.keys() <= known.keys():
            bound(f"the call of {type(self).__name__}", inspect.signature(call), (self, *args), kwargs)
        return call(self, *args, **kwargs)

    return checked
