"""Which layers to look into: by name, by pattern, by module or by type."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from ..errors import closest, or_rather
from ..model.layers import Layer, call_of, refuse_exported, resolve
from ..model.tap import hookable

__all__ = ["CONVOLUTIONS", "Chosen", "Types", "choose"]

Types = type[nn.Module] | str | Sequence[type[nn.Module] | str]
"""A module class or the name of one, or several; subclasses count."""

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Chosen(NamedTuple):
    """One layer, and whether it was asked for by itself: then it is an error when it gives no map."""

    name: str
    module: nn.Module
    required: bool
    call: int | None = None  # of a layer that runs several times: the one that was asked for

    @property
    def label(self) -> str:
        """The name, with the number of the call that was asked for."""
        return self.name if self.call is None else f"{self.name}#{self.call}"

    def entry(self, turn: int) -> str | None:
        """The name under which a call is kept: ``"conv"``, ``"conv#2"``, ...; None where another one was asked for."""
        if self.call is not None:
            return self.label if turn == self.call else None
        return self.name if turn == 1 else f"{self.name}#{turn}"


def choose(model: nn.Module, layers: Layer | Sequence[Layer] | None, types: Types | None) -> list[Chosen]:
    """The layers of ``model`` that ``layers`` and ``types`` name, each once.

    ``layers``: dotted names, patterns with ``*``, ``?`` and ``[...]`` (``"features.*"``), modules, or a mixture; they
    come in the order given, and those of one pattern in the model's order. ``"net#2"`` is the second call alone of a layer
    that runs several times in a pass; ``"net"`` and ``"net#*"`` are all of them. None stands for the whole model. ``types``
    narrows patterns and the whole model down; None: convolutions of the whole model, everything that a pattern matches.

    Raises ``ValueError`` for names and patterns that match nothing, with the closest names, and for types the model
    does not have.
    """
    refuse_exported(model)
    by_name = {name: module for name, module in hookable(model) if name}
    if layers is None:
        kinds = CONVOLUTIONS if types is None else types
        chosen = [Chosen(n, m, False) for n, m in by_name.items() if _is_a(m, kinds)]
        if not chosen:
            own = sorted({type(m).__name__ for m in by_name.values() if not m._modules})
            raise ValueError(f"expected layers of type {_names(kinds)} in the model, got {', '.join(own) or 'none'}")
        return chosen
    found: dict[tuple[nn.Module, int | None], Chosen] = {}
    for layer in [layers] if isinstance(layers, (str, nn.Module)) else layers:
        plain, call = call_of(layer, by_name) if isinstance(layer, str) else (layer, None)
        number = call if isinstance(call, int) else None
        if isinstance(plain, str) and plain not in by_name and any(sign in plain for sign in "*?["):
            for each in _matching(by_name, plain, types):
                found.setdefault((each.module, number), each._replace(call=number))
        else:
            (name,), (module,) = resolve(model, plain)
            found[module, number] = Chosen(name, module, True, number)
    if not found:
        raise ValueError("expected at least one layer, got none")
    return list(found.values())


def _matching(by_name: dict[str, nn.Module], pattern: str, types: Types | None) -> list[Chosen]:
    matches = {name: module for name, module in by_name.items() if fnmatch.fnmatchcase(name, pattern)}
    if not matches:
        bare = pattern.translate(str.maketrans("", "", "*?[]"))
        hint = or_rather(closest(bare, by_name, 4, 0.3), sorted(by_name, key=lambda name: name.count(".")))
        raise ValueError(f"expected a pattern that matches layers of the model, got {pattern!r}{hint}")
    chosen = [Chosen(n, m, False) for n, m in matches.items() if types is None or _is_a(m, types)]
    if not chosen:
        kinds = sorted({type(module).__name__ for module in matches.values()})
        raise ValueError(f"expected layers of type {_names(types)} among {pattern!r}, got {', '.join(kinds)}")
    return chosen


def _is_a(module: nn.Module, types: Types | None) -> bool:
    for kind in _listed(types):
        if isinstance(kind, str):
            if any(kind == base.__name__ for base in type(module).__mro__):
                return True
        elif isinstance(module, kind):
            return True
    return False


def _names(types: Types | None) -> str:
    return " or ".join(kind if isinstance(kind, str) else kind.__name__ for kind in _listed(types))


def _listed(types: Types | None) -> Sequence[type[nn.Module] | str]:
    if types is None:
        return ()
    return [types] if isinstance(types, (str, type)) else types
