"""Other libraries' interfaces over camfast's engine: change the import line, keep the script.

``from camfast.compat.pytorch_grad_cam import GradCAM`` serves one script; :func:`install` serves code that cannot be
edited. Nothing here imports the libraries it stands for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["NAMES", "install", "is_strict", "refused", "uninstall"]

NAMES = ("captum", "monai", "pytorch_grad_cam", "torchcam")
"""The packages that camfast can stand for."""


_PARTS: dict[str, dict[str, Sequence[str]]] = {
    "captum": {
        "captum.attr._core.guided_grad_cam": ("GuidedGradCam",),
        "captum.attr._core.layer.grad_cam": ("LayerGradCam",),
    },
    "monai": {
        "monai.visualize.class_activation_maps": ("CAM", "CAMBase", "GradCAM", "GradCAMpp", "default_normalizer"),
    },
}
"""Of packages that do much else: the classes that are ours. The rest stays the original's where that is installed.

So do GuidedBackprop and LayerAttribution of captum and ModelWithHooks of MONAI, although this package has them too: other
classes of the originals are built on them (NeuronGuidedBackprop sets ``gradient_func``, LayerConductance inherits, VanillaGrad
reads ``x.grad``), and would fail on ours.
"""


def install(name: str) -> None:
    """Serves ``import name``, and all of its submodules, from ``camfast.compat.name`` for the rest of this process.

    captum and monai do much else: where they are installed they are imported as they are, with camfast's classes in the
    place of their class-activation maps.

    A second call does nothing. Raises ``ValueError`` for a package that camfast does not stand for, ``ImportError`` for one
    that this version does not hold, and ``RuntimeError`` where the real one is imported already: its objects would meet
    ours.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    if any(finder.package == name for finder in sys.meta_path if isinstance(finder, _Finder)):
        return
    loaded = next((key for key in sys.modules if sys.modules[key] and (key + ".").startswith(name + ".")), None)
    if loaded is not None:
        origin = getattr(sys.modules[loaded], "__file__", None)
        raise RuntimeError(f"{loaded} is imported already ({origin}); call install({name!r}) before its first import")
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise ImportError(f"camfast does not stand for {name} yet: there is no {__name__}.{name} in this version")
    importlib.import_module(f"{__name__}.{name}")  # what it lacks is said here, not in the script
    partly = name in _PARTS and _is_installed(name)
    sys.meta_path.insert(0, _PartFinder(name, _PARTS[name]) if partly else _Finder(name))


def uninstall(name: str) -> None:
    """Takes :func:`install` back: the next ``import name`` finds the real package. What is imported stays as it is.

    The originals of captum and monai, where they are installed, keep the classes that they were given.
    """
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, _Finder) and f.package == name)]
    for key in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
        if getattr(sys.modules[key], "__name__", "").startswith(__name__ + "."):
            del sys.modules[key]


def is_strict(module: str) -> bool:
    """Whether ``camfast.compat.module`` is to reproduce its original's numbers where those are wrong.

    The module's attribute ``strict`` decides; None leaves it to the environment variable ``CAMFAST_COMPAT_STRICT``.
    """
    strict = getattr(sys.modules.get(f"{__name__}.{module}"), "strict", None)
    return os.environ.get("CAMFAST_COMPAT_STRICT", "0") not in ("", "0") if strict is None else bool(strict)


def refused(module: str, name: str, absent: Collection[str], served: Collection[str]) -> Exception:
    """What a module's ``__getattr__`` raises for ``name``, which it does not have.

    For a name that the original ``module`` has, ``absent`` here, an ``ImportError``: unlike ``AttributeError`` its sentence
    is shown by ``from module import name``.
    """
    if name in absent:
        return ImportError(
            f"camfast stands for {', '.join(served)} of {module}, got {name}: import it from {module} itself"
        )
    return AttributeError(f"module {module!r}, served by camfast, has no attribute {name!r}")


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(self.package + "."):
            return None
        ours = importlib.util.find_spec(f"{__name__}.{fullname}")
        if ours is None:
            return None
        return ModuleSpec(fullname, _Alias(ours.name), is_package=ours.submodule_search_locations is not None)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


class _PartFinder(_Finder):
    """Finds the original's modules, and puts our classes in the place of some of theirs."""

    def __init__(self, package: str, parts: Mapping[str, Sequence[str]]) -> None:
        super().__init__(package)
        self.parts = parts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.parts else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Replaced(spec.loader, self.parts[fullname])
        return spec


class _Replaced(Loader):
    """Loads a module, then gives it the classes of ours."""

    def __init__(self, loader: Any, names: Sequence[str]) -> None:
        self.loader, self.names = loader, names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        ours = importlib.import_module(f"{__name__}.{module.__name__}")
        for name in self.names:
            setattr(module, name, getattr(ours, name))


class _Alias(Loader):
    """Gives the module of another name, so that both names share its classes and its state."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own: dict[str, Any] = {}

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.own = {key: getattr(module, key) for key in ("__spec__", "__loader__", "__package__")}
        return module

    def exec_module(self, module: ModuleType) -> None:
        for key, value in self.own.items():  # the import system wrote the alias's there
            setattr(module, key, value)
