"""Names for what is written of each photograph: no two alike, in the folders in which the photographs were found."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..pictures.photos import real

__all__ = ["file_stems", "free", "mirrored", "slug"]


def mirrored(files: Sequence[Path], places: Sequence[str | Path]) -> list[Path]:
    """A path for each of ``files``, without a suffix and relative: where it lies in the one of ``places`` that holds it.

    A file that is in no folder of ``places`` is called by its stem. Twins, ``cat.jpg`` and ``cat.png``, get their kinds
    behind it, ``cat-jpg``; other files of one name their folders' names before it. Names that differ in case alone count
    as alike, as they do on some file systems.
    """
    folders = [path for path in (Path(place).expanduser() for place in places) if os.path.isdir(path)]
    names = [_below(file, folders) for file in files]
    for again in (_with_kind, _with_folders):
        counts = Counter(str(name).casefold() for name in names)
        alike = [i for i, name in enumerate(names) if counts[str(name).casefold()] > 1]
        if not alike:
            break
        for i, name in zip(alike, again([files[i] for i in alike], [names[i] for i in alike]), strict=True):
            names[i] = name
    seen: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while str(names[i]).casefold() in seen:
            names[i], number = name.with_name(f"{name.name}-{number}"), number + 1
        seen.add(str(names[i]).casefold())
    return names


def file_stems(files: Sequence[Path]) -> list[str]:
    """A name for each of ``files``, no two alike: its stem, behind as many of its folders' names as tell it from others.

    Twins in one folder are told apart by what they are: ``cat-jpg`` and ``cat-png``. Names that differ in case alone
    count as alike, as they do on some file systems.
    """
    homes = [real(file).parent for file in files]
    parts = [(*home.parts[1:], file.stem) for home, file in zip(homes, files, strict=True)]
    depths = [1] * len(files)
    while True:
        stems = ["-".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        where: defaultdict[str, set[str]] = defaultdict(
            set
        )  # of each name the folders: twins in one need no more of it
        for stem, home in zip(stems, homes, strict=True):
            where[stem.casefold()].add(str(home).casefold())
        short = [i for i, stem in enumerate(stems) if len(where[stem.casefold()]) > 1 and depths[i] < len(parts[i])]
        if not short:
            break
        for i in short:
            depths[i] += 1
    counts = Counter(stem.casefold() for stem in stems)
    for i, stem in enumerate(stems):
        if counts[stem.casefold()] > 1 and files[i].suffix:
            stems[i] = f"{stem}-{files[i].suffix[1:].casefold()}"
    seen: set[str] = set()
    for i, stem in enumerate(stems):  # cat.jpg and cat.JPG
        number = 2
        while stems[i].casefold() in seen:
            stems[i], number = f"{stem}-{number}", number + 1
        seen.add(stems[i].casefold())
    return stems


def free(path: Path, taken: set[Path]) -> Path:
    """``path``, or one like it, that is none of ``taken``; it is put among them."""
    number, found = 2, path
    while real(found) in taken:
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    taken.add(real(found))
    return found


def slug(name: str) -> str:
    """``name`` as part of a file's name."""
    return re.sub(r"[^0-9a-z]+", "-", name.casefold()).strip("-") or "class"


def _below(file: Path, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if folder in file.parents or folder == Path():
            return file.relative_to(folder).with_suffix("")
    return Path(file.stem)


def _with_kind(files: Sequence[Path], names: Sequence[Path]) -> list[Path]:
    """Twins by their suffixes; others as they are."""
    found = []
    for file, name in zip(files, names, strict=True):
        twins = [
            other.suffix.casefold()
            for other, its in zip(files, names, strict=True)
            if str(its).casefold() == str(name).casefold() and real(other).parent == real(file).parent
        ]
        apart = len(twins) > 1 and twins.count(file.suffix.casefold()) == 1
        found.append(name.with_name(f"{name.name}-{file.suffix[1:].lower()}") if apart else name)
    return found


def _with_folders(files: Sequence[Path], names: Sequence[Path]) -> list[Path]:
    stems = file_stems(files)
    return [Path(stem + name.name[len(file.stem) :]) for stem, name, file in zip(stems, names, files, strict=True)]
