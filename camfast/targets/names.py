"""Classes by name: the one place where a name becomes a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import FEW, closest, or_rather

__all__ = ["ClassNames", "find_class", "listed_names"]

ClassNames = Sequence[str] | Mapping[int, str]
"""Names in the order of the classes, or by number, as detectors and configurations keep them."""


def listed_names(class_names: ClassNames | None) -> Sequence[str] | None:
    """Names as a sequence in the order of the classes; ``{0: "cat", 1: "dog"}`` is one as well.

    Raises:
        ValueError: numbers are missing in a mapping.
    """
    if not isinstance(class_names, Mapping):
        return class_names
    numbers = {int(key): name for key, name in class_names.items()}
    if set(numbers) != set(range(len(numbers))):
        raise ValueError(f"class_names must name every class from 0 to {len(numbers) - 1}, got {sorted(numbers)[:9]}")
    return [numbers[number] for number in range(len(numbers))]


def find_class(target: str, class_names: ClassNames | None) -> int:
    """The number of the class that ``target`` names: a name, one of its synonyms, in any case, or a number.

    Args:
        target: what the user wrote.
        class_names: names in the order of the classes; ImageNet's are lists of synonyms, with commas between them.

    Returns:
        A class from 0 on.

    Raises:
        ValueError: no class has the name (the message gives the closest ones) or several have.
    """
    names = listed_names(class_names)
    wanted = target.strip().casefold()
    if names is not None:
        exact = [number for number, name in enumerate(names) if name == target]
        whole = [number for number, name in enumerate(names) if name.casefold() == wanted]
        parts = [number for number, name in enumerate(names) if wanted in _synonyms(name)]
        matches = exact or whole or parts
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(f"{number} ({names[number]})" for number in matches)
            raise ValueError(f"expected one class, got {target!r}, the name of several: give a number, {choices}")
    if target.isascii() and target.isdecimal():
        number = int(target)
        if names is not None and number >= len(names):
            raise ValueError(f"expected a class below {len(names)}, got {number}")
        return number
    if names is None:
        raise ValueError(
            f"expected the number of a class, since no class names are known, got {target!r}; class_names= gives them"
        )
    if len(names) <= FEW:
        raise ValueError(f"expected the name of a class, one of {', '.join(map(repr, names))}, got {target!r}")
    known = {synonym for name in names for synonym in _synonyms(name)}
    near = sorted(name for name in known if wanted in name.split())[:6]
    hint = or_rather(near or closest(wanted, known, 3, 0.7), names)
    raise ValueError(f"expected the name of a class, got {target!r}{hint}")


def _synonyms(name: str) -> set[str]:
    """``name`` itself and its parts between commas."""
    whole = name.casefold()
    return {whole, *(part.strip() for part in whole.split(","))}
