"""Every way to read a layer's output: which dimension holds channels, and what the others follow of the image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from .layouts import MAX_GUESSED_PREFIX, Kind, Layout, factorisations, grids_of
from .planting import usual_axes

__all__ = ["readings_of", "rows_as_grids"]


def readings_of(
    shape: tuple[int, ...], batch: int, image: Sequence[int], model: nn.Module, first: Layout | None
) -> Iterator[Layout]:
    """Every way to read an output of ``shape`` for one image, the likeliest first."""
    if first is not None:
        yield first
    others = [axis for axis in range(len(shape)) if axis != batch]
    instances = shape[batch] if shape[batch] > 1 else None
    if instances is not None and (len(image) != 5 or image[1] != instances):
        return
    usual = usual_axes(image, model)
    start = 2 if instances is not None else 1
    seen = {_key(first, len(image))} if first is not None else set()
    for layout in _plain(shape, batch, others, range(start, len(image)), usual, instances):
        assert layout.along is not None
        if any(side > image[axis] for side, axis in zip(layout.map, layout.along, strict=True)):
            continue  # finer than the image itself
        if (key := _key(layout, len(image))) not in seen:
            seen.add(key)
            yield layout
    if len(others) != 2 or instances is not None:
        return
    either: dict[int, list[tuple[int, ...]]] = {3: [(1,), (2,)], 4: [(1, 2), (2, 3)]}  # channels last or first
    for axes in dict.fromkeys([usual, *either.get(len(image), [])]):
        for layout in _flattened(shape, batch, others, tuple(image[axis] for axis in axes), axes):
            if first is not None and first.kind.startswith("tokens") and min(layout.map) == 1 < len(layout.map):
                continue  # a line, where a patch embedding tells of a grid
            if (key := _key(layout, len(image))) not in seen:
                seen.add(key)
                yield layout


def _plain(
    shape: tuple[int, ...],
    batch: int,
    others: list[int],
    image_axes: Sequence[int],
    usual: tuple[int, ...],
    instances: int | None,
) -> Iterator[Layout]:
    """One dimension of channels, the others each along one of the image's."""
    positions = len(others) - 1
    choices = sorted(
        itertools.permutations(image_axes, positions),
        key=lambda along: (sum(axis not in usual for axis in along), list(along) != sorted(along), -sum(along)),
    )
    for along in choices:
        for channels in others:
            rest = [axis for axis in others if axis != channels]
            pairs = sorted(zip(along, rest, strict=True))
            follows = tuple(axis for axis, _ in pairs)
            if len(follows) == 1 and len(usual) == 2 and instances is None:  # a picture's rows or columns
                whole = usual if follows[0] in usual else (1, 2)
                if follows[0] not in whole:
                    continue
                sizes = tuple(shape[pairs[0][1]] if axis == follows[0] else 1 for axis in whole)
                yield Layout("axes", sizes, axes=(batch, channels, pairs[0][1]), along=whole)
                continue
            dims = (batch, channels, *(axis for _, axis in pairs))
            sizes = tuple(shape[axis] for axis in dims[2:])
            yield Layout(_kind(dims), sizes, axes=dims, along=follows, instances=instances)


def _kind(axes: tuple[int, ...]) -> Kind:
    """What the usual orders of dimensions are called."""
    rank = len(axes) - 2
    if axes == tuple(range(rank + 2)):
        return "channels_first"
    if axes in ((0, 2, 1), (1, 2, 0)):
        return "tokens" if axes[0] == 0 else "tokens_batch_second"
    return "channels_last" if axes == (0, rank + 1, *range(1, rank + 1)) else "axes"


def _flattened(
    shape: tuple[int, ...], batch: int, others: list[int], size: tuple[int, ...], along: tuple[int, ...]
) -> Iterator[Layout]:
    """One dimension of channels, the other a grid in a row, with or without extra tokens before it.

    ``size`` is the image's, in its dimensions ``along``.
    """
    for tokens in others:
        (channels,) = (axis for axis in others if axis != tokens)
        if len(size) == 1 and channels < tokens:
            continue  # what runs along the last dimension is a signal, which has no class token before it
        for (grid, prefix), down in itertools.product(rows_as_grids(shape[tokens], size), (False, True)):
            if math.prod(grid) > 1 and not (down and len(grid) != 2):
                yield Layout("axes", grid, prefix, axes=(batch, channels, tokens), down=down, along=along)


def rows_as_grids(count: int, size: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """Grids of ``count`` tokens, and how many tokens are before them: those of the image's proportions first."""
    exact, rounded = grids_of(count, size)
    loose = [
        (grid, prefix)
        for prefix in range(min(MAX_GUESSED_PREFIX, count - 1) + 1)
        for grid in factorisations(count - prefix, len(size))
        if (prefix or len(size) > 1)
        and min(grid) > 1
        and all(side <= length for side, length in zip(grid, size, strict=True))
    ]
    return list(dict.fromkeys([*exact, *rounded, *loose]))


def _key(layout: Layout, image_rank: int) -> Any:
    """Equal for readings that view alike."""
    along = layout.along if layout.along is not None else tuple(range(image_rank - len(layout.map), image_rank))
    flat = len(layout.order) - 2 < len(layout.map) or layout.prefix
    grid = (layout.map, layout.prefix, layout.down) if flat else None
    if grid is not None and math.prod(layout.map) == max(layout.map):
        grid = (layout.map, layout.prefix, False)
    return layout.order, along, grid
