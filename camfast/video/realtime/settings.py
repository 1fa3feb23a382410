"""What may change while a stream runs: each setting is checked when it is set, and used from the next frame on."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...brief import Brief
from ...methods import METHODS
from ...model.layers import Layer, resolve
from ...ops import colormaps
from ...targets import Policy, TopK, find_class
from .temporal import Fixed, Top

__all__ = ["Adjustable", "Settings", "policy"]


@dataclass(frozen=True, repr=False)
class Settings(Brief):
    """What may change between two frames; one frame sees one of these, whole."""

    method: str
    layers: tuple[str, ...] | None
    targets: Any
    colormap: str | Tensor
    alpha: float
    smooth: float
    sticky: float
    every: int
    min_score: float = 0.25
    paused: bool = False


class _Setting:
    """An attribute that any thread may set while another runs frames: checked at once, used from the next frame on."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, engine: Any, owner: Any = None) -> Any:
        return self if engine is None else getattr(engine._settings, self.name)

    def __set__(self, engine: Any, value: Any) -> None:
        value = engine.checked(self.name, value)
        with engine._settings_lock:
            engine._settings = dataclasses.replace(engine._settings, **{self.name: value})


class Adjustable:
    """The settings of an engine, as attributes, and their checks."""

    targets = _Setting("What to explain; a name needs ``class_names``.")
    method = _Setting("The method's name.")
    layers = _Setting("The layers asked for: a list, or None; :attr:`layers_in_use` says which were found.")
    colormap = _Setting("Name of a colour table, or the table.")
    alpha = _Setting("The heat's share of the picture, 0 to 1.")
    smooth = _Setting("Share of the past, from 0 to below 1.")
    sticky = _Setting("Lead in probability that another class needs.")
    every = _Setting("Each how manieth frame is explained.")
    min_score = _Setting("Of a detector: the least score of a box.")
    paused = _Setting("True returns the last result again, whatever the frame.")

    class_names: Sequence[str] | None
    detects: bool  # whether boxes are explained
    _original: nn.Module  # whose layers are meant
    _settings: Settings
    _settings_lock: threading.Lock

    def checked(self, name: str, value: Any) -> Any:
        """``value`` in the form in which the setting ``name`` keeps it; nothing is set.

        Raises ``ValueError`` or ``TypeError`` where it cannot be that setting's.
        """
        return getattr(self, f"_checked_{name}")(value)

    def _checked_method(self, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
        return method

    def _checked_layers(self, layers: Layer | Sequence[Layer] | None) -> tuple[str, ...] | None:
        # By name, since a copy of the model may be in use.
        return None if layers is None else tuple(resolve(self._original, layers)[0])

    def _checked_targets(self, targets: Any) -> Any:
        if self.detects and (isinstance(targets, (TopK, Policy)) or callable(targets)):
            got = getattr(targets, "__name__", None) or repr(targets)
            raise ValueError(f"targets of a detector must be classes, whose boxes are kept, got {got}")
        if targets is None or isinstance(targets, (TopK, Policy)) or callable(targets):
            return targets
        if isinstance(targets, (Tensor, np.ndarray)):
            targets = targets.tolist()
        if isinstance(targets, (list, tuple)):
            if not targets:
                raise ValueError("targets must be a class or several, got an empty list")
            return tuple(self._class_number(target) for target in targets)
        return self._class_number(targets)

    def _class_number(self, target: Any) -> int:
        if isinstance(target, bool) or not isinstance(target, (int, np.integer, str)):
            raise TypeError(f"targets must be classes, names, TopK or a callable, got {type(target).__name__}")
        number = find_class(target, self.class_names) if isinstance(target, str) else int(target)
        known = None if self.class_names is None else len(self.class_names)
        if number < 0 or (known is not None and number >= known):
            raise ValueError(
                f"targets must be classes from 0{'' if known is None else f' to {known - 1}'}, got {number}"
            )
        return number

    def _checked_colormap(self, colormap: str | Tensor) -> str | Tensor:
        colormaps.table(colormap)
        return colormap

    def _checked_alpha(self, alpha: float) -> float:
        return _between("alpha", alpha, 0, 1)

    def _checked_smooth(self, smooth: float) -> float:
        if smooth == 1:
            raise ValueError("smooth must be below 1, where no frame would ever be seen, got 1")
        return _between("smooth", smooth, 0, 1)

    def _checked_sticky(self, sticky: float) -> float:
        return _between("sticky", sticky, 0, 1)

    def _checked_every(self, every: int) -> int:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a positive int, got {every!r}")
        return every

    def _checked_min_score(self, min_score: float) -> float:
        return _between("min_score", min_score, 0, 1)

    def _checked_paused(self, paused: bool) -> bool:
        return bool(paused)


def _between(name: str, value: float, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value!r}")
    return float(value)


def policy(targets: Any, sticky: float) -> Policy | Callable[[Tensor], Tensor]:
    """How an explainer picks the targets of these settings."""
    if targets is None:
        return Top(sticky=sticky)
    if isinstance(targets, TopK):
        return Top(targets.k)
    if isinstance(targets, tuple):
        return Fixed(list(targets))
    return Fixed(targets) if isinstance(targets, int) else targets
