"""The public names of an installed package, module by module, for comparison with ours."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

__all__ = ["module_names", "public_names", "signature_of"]


def module_names(package: str) -> list[str]:
    """The package and all modules below it, by their names inside it: ``""``, ``"utils"``, ``"utils.image"``."""
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")
    return ["", *(module.name[len(package) + 1 :] for module in found)]


def public_names(package: str, module: str) -> dict[str, Any]:
    """What a module defines: its classes, functions and constants; of the package itself all that it offers."""
    name = f"{package}.{module}".rstrip(".")
    values = vars(importlib.import_module(name)).items()
    return {key: value for key, value in values if not key.startswith("_") and _belongs(value, package, name, module)}


def _belongs(value: Any, package: str, name: str, module: str) -> bool:
    if isinstance(value, ModuleType):  # modules are walked themselves
        return False
    home = getattr(value, "__module__", None)
    if home is None or not isinstance(home, str):
        return not hasattr(value, "__origin__")  # a constant; typing's names are not the package's
    return home == name if module else home.startswith(package + ".")


def signature_of(function: Any, skip: int = 0) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each parameter."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return [(p.name, p.kind, _plain(p.default)) for p in parameters]


def _plain(default: Any) -> Any:
    """Defaults that can be compared: a class by its name, an object by its kind, a sequence as a list."""
    if inspect.isclass(default) or isinstance(default, (int, float, str, type(None))):
        return default.__name__ if inspect.isclass(default) else default
    if isinstance(default, (list, tuple)):
        return list(default)
    return type(default).__name__
