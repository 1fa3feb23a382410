"""Where the positions are in a layer's output: channels first, channels last, or a row of tokens.

    [N, C, *map]               convolutional networks: left as it is
    [N, *map, C]               Swin and its kin
    [N, prefix + positions, C] ViT and its kin; prefix: class, distillation and register tokens
    [prefix + positions, N, C] the same, batch second
    [N, prefix + positions + detections, C] YOLOS, whose last tokens become boxes

Every layout becomes ``[N, C, *map]`` as a view, so that no activation is copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

__all__ = [
    "MAX_GUESSED_PREFIX",
    "Kind",
    "Layout",
    "factorisations",
    "grids_of",
    "has_channels_second",
    "layout_of",
    "named_layout",
    "position_axes",
    "same_proportions",
    "size_of",
]

MAX_PREFIX = 9  # a class token and eight registers
MAX_GUESSED_PREFIX = 5  # a class token and four registers, where the model's patch embedding does not tell the grid
_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


# Their channels come second: they could not run otherwise.
_CHANNELS_SECOND = (
    _ConvNd,
    _BatchNorm,
    _InstanceNorm,
    _AvgPoolNd,
    _MaxPoolNd,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
)

Kind = Literal["channels_first", "channels_last", "tokens", "tokens_batch_second", "axes"]


class Layout(NamedTuple):
    """How to view a layer's output as ``[N, C, *map]``."""

    kind: Kind
    map: tuple[int, ...]
    prefix: int = 0
    plausible: bool = True  # the map has the proportions of the image
    axes: tuple[int, ...] = ()  # of "axes": the output's dimensions that hold batch, channels, and positions, in order
    down: bool = False  # tokens run down the columns of their grid, not along its rows
    along: tuple[int, ...] | None = None  # the image's dimension that each of the map's follows; None: the last ones
    instances: int | None = None  # several maps an image, one each for the entries of the image's second dimension

    def view(self, tensor: Tensor) -> Tensor:
        """``tensor``, with any dimensions before the layer's own, as ``[..., N, C, *map]``, without a copy."""
        if self.kind == "channels_first":
            return tensor
        order = self.order
        lead = tensor.ndim - len(order)
        tensor = tensor.permute(*range(lead), *(lead + axis for axis in order))
        if len(order) - 2 < len(self.map) or self.prefix:  # flattened, or pooled along some of the image's dimensions
            grid = self.map[::-1] if self.down else self.map
            tensor = tensor.narrow(-1, self.prefix, math.prod(grid)).unflatten(-1, grid)
            return (
                tensor.movedim(tuple(range(-len(grid), 0)), tuple(range(-1, -len(grid) - 1, -1)))
                if self.down
                else tensor
            )
        return tensor

    @property
    def order(self) -> tuple[int, ...]:
        """The output's dimensions that hold batch, channels and positions, in order."""
        rank = len(self.map)
        if self.kind == "axes":
            return self.axes
        if self.kind == "channels_last":
            return (0, rank + 1, *range(1, rank + 1))
        if self.kind == "channels_first":
            return (0, 1, *range(2, rank + 2))
        return (0, 2, 1) if self.kind == "tokens" else (1, 2, 0)


def has_channels_second(layer: nn.Module, shape: Sequence[int] | None = None) -> bool:
    """Whether ``layer`` is of a kind whose output has its channels second, after the batch.

    With ``shape``, that of an output: whether this one has them; without a batch they come first.
    """
    if not isinstance(layer, _CHANNELS_SECOND):
        return False
    digit = type(layer).__name__.rpartition("d")[0][-1:]
    return shape is None or not digit.isdecimal() or len(shape) == int(digit) + 2


def layout_of(shape: Sequence[int], image: Sequence[int], model: nn.Module) -> Layout | None:
    """The layout of a layer's output of ``shape``, for an image tensor of shape ``image`` ``[N, C, *size]``.

    None where there is none: the batch is not among the dimensions, or the tokens fit no grid. Raises ``ValueError``
    where they fit several.
    """
    if len(image) > 4 and len(shape) < len(image) and shape[0] == image[0] * image[1] != image[0]:
        image = (shape[0], *image[2:])  # bags of instances, frames: each became an image of its own
    batch, rank = image[0], len(shape) - 2
    whole = size_of(image, model)
    if len(shape) == 3 and len(image) > 3:
        if shape[0] == batch:
            return _tokens("tokens", shape[1], whole, model)
        return _tokens("tokens_batch_second", shape[0], whole, model) if shape[1] == batch else None
    if rank not in _CONVOLUTIONS or shape[0] != batch:
        return None
    size = whole[-rank:]
    first, last = tuple(shape[2:]), tuple(shape[1:-1])
    if rank == 1:
        # [N, C, L] and [N, T, C] look alike: only a patch embedding tells.
        found = _embedded_grid(shape[1], size, model)
        if found is not None:
            return Layout("tokens", *found)
        ranks = {rank for rank, kind in _CONVOLUTIONS.items() if any(isinstance(m, kind) for m in model.modules())}
        # Spectrograms [N, time, frequency] that are cut into patches as images are: the order of the tokens is unknown.
        return Layout("channels_first", first) if not ranks or 1 in ranks else None
    if len(image) <= rank + 1:
        return Layout("channels_first", first)
    plausible = same_proportions(first, size)
    if same_proportions(last, size) and (not plausible or (_exact(last, size) and not _exact(first, size))):
        return Layout("channels_last", last)
    return Layout("channels_first", first, plausible=plausible)


def named_layout(name: str, shape: Sequence[int], image: Sequence[int], model: nn.Module) -> Layout:
    """The layout that a user gave for a layer's output of ``shape``.

    Args:
        name: ``"channels_first"``, ``"channels_last"``, ``"tokens"``, ``"tokens_batch_second"``, or the dimensions in
            their order, ``"n t c"``: n, c, and for positions some of t, d, h, w.
        shape: of the layer's output.
        image: of the image tensor, ``[N, ...]``.
        model: tells by its patch embedding the grid of tokens.

    Raises:
        ValueError: the name is none of these or does not fit ``shape``, or the tokens fit no grid or several.
    """
    shape, rank = tuple(shape), len(shape) - 2
    if name in ("tokens", "tokens_batch_second"):
        tokens = shape[0 if name == "tokens_batch_second" else 1]
        whole = size_of(image, model)
        grid = _tokens(name, tokens, whole, model) if len(shape) == 3 else None  # type: ignore[arg-type]
        if grid is None:
            raise ValueError(
                f"layout={name!r} needs an output of three dimensions whose tokens form a grid of the proportions of "
                f"images {list(image)}, got {list(shape)}; reshape= turns it into [N, C, *map]"
            )
        return grid
    if name in ("channels_first", "channels_last") and rank in _CONVOLUTIONS:
        return Layout(name, shape[2:] if name == "channels_first" else shape[1:-1])  # type: ignore[arg-type]
    letters = list(name.lower().replace(" ", ""))
    if sorted(letters) != sorted(set(letters)) or not {"n", "c"} <= set(letters) <= set("nctdhw") or len(letters) < 3:
        raise ValueError(
            f"layout must be 'channels_first', 'channels_last', 'tokens', 'tokens_batch_second', or letters such as "
            f"'n t c' of n, c and t, d, h, w, got {name!r}"
        )
    if len(letters) != len(shape):
        raise ValueError(f"layout={name!r} names {len(letters)} dimensions, got an output {list(shape)}")
    axes = tuple(letters.index(letter) for letter in "nctdhw" if letter in letters)
    return Layout("axes", tuple(shape[axis] for axis in axes[2:]), axes=axes)


def size_of(image: Sequence[int], model: nn.Module) -> tuple[int, ...]:
    """The size of an image tensor of shape ``image``: its dimensions of positions (see :func:`position_axes`)."""
    return tuple(image[axis] for axis in position_axes(image, model))


def position_axes(image: Sequence[int], model: nn.Module) -> tuple[int, ...]:
    """The dimensions of an image tensor of shape ``image`` that hold positions, as far as shapes tell: mostly the last ones.

    Of videos ``[N, frames, C, H, W]``, as Hugging Face's video transformers take them, they are frames, H and W; of
    pictures ``[N, H, W, C]`` and volumes ``[N, D, H, W, C]`` all but the last: the model's first convolution tells how
    many channels there are.
    """
    rank = len(image) - 2
    usual = tuple(range(2, len(image)))
    if rank not in (2, 3):
        return usual
    kinds = tuple(_CONVOLUTIONS.values()) if rank == 3 else _CONVOLUTIONS[rank]
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    if first is None or first.in_channels == image[1]:
        return usual
    for channels in (2, 4) if rank == 3 else (3,):
        if first.in_channels == image[channels]:
            return tuple(axis for axis in range(1, len(image)) if axis != channels)
    return usual


def _tokens(
    kind: Literal["tokens", "tokens_batch_second"], count: int, size: Sequence[int], model: nn.Module
) -> Layout | None:
    found = _embedded_grid(count, size, model)
    # Volumes keep no proportions, since time and depth are cut in steps of their own: only an embedding tells.
    if found is None and len(size) < 3:
        found = _grid_of_proportions(count, size)
    return None if found is None else Layout(kind, *found)


def _embedded_grid(count: int, size: Sequence[int], model: nn.Module) -> tuple[tuple[int, ...], int] | None:
    """Grid and prefix of ``count`` tokens from the model's patch embedding, possibly merged 2 x 2 a few times."""
    patch = _patch_size(model, len(size))
    if patch is None:
        return None
    count -= int(getattr(getattr(model, "config", None), "num_detection_tokens", 0))
    for steps, round_ in itertools.product(_merged(patch), (math.floor, math.ceil)):
        grid = tuple(round_(extent / step) for extent, step in zip(size, steps, strict=True))
        prefix = count - math.prod(grid)
        if math.prod(grid) > 0 and 0 <= prefix <= (MAX_PREFIX if steps == patch else 1):
            return grid, prefix
    return None


def _merged(patch: tuple[int, ...]) -> list[tuple[int, ...]]:
    """``patch``, and what it becomes when patches are merged in twos a few times: of videos only within a frame."""
    factors = [(1,) * len(patch)]
    for factor in (2, 4, 8, 16):
        if len(patch) == 3:
            factors.append((1, factor, factor))
        factors.append((factor,) * len(patch))
    return [tuple(step * factor for step, factor in zip(patch, row, strict=True)) for row in factors]


def _patch_size(model: nn.Module, rank: int) -> tuple[int, ...] | None:
    """The stride of the first convolution that cuts an image into patches: kernel and stride are the same.

    Volumes may be cut into patches that overlap: there the first convolution counts in any case.
    """
    if rank not in _CONVOLUTIONS:
        return None
    overlapping = None
    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS[rank]) and math.prod(stride := module.stride) > 1:  # type: ignore[arg-type]
            patch: Any = stride
            if module.kernel_size == patch:
                return tuple(patch)
            if rank == 3 and overlapping is None:
                overlapping = tuple(patch)
    return overlapping


def _grid_of_proportions(count: int, size: Sequence[int]) -> tuple[tuple[int, ...], int] | None:
    """Grid and prefix of ``count`` tokens from the proportions of the image alone."""
    exact, rounded = grids_of(count, size)
    found = exact or rounded
    if len(found) > 1:
        grids = " or ".join("x".join(map(str, grid)) for grid, _ in found[:4])
        raise ValueError(f"{count} tokens fit several grids, {grids}: pass reshape= to turn them into [N, C, *map]")
    return found[0] if found else None


def grids_of(
    count: int, size: Sequence[int]
) -> tuple[list[tuple[tuple[int, ...], int]], list[tuple[tuple[int, ...], int]]]:
    """Grids and prefixes of ``count`` tokens that have the image's proportions, exactly and after rounding."""
    exact, rounded = [], []
    for prefix in range(min(MAX_GUESSED_PREFIX, count - 1) + 1):
        for grid in factorisations(count - prefix, len(size)):
            if _exact(grid, size):
                exact.append((grid, prefix))
            elif same_proportions(grid, size):
                rounded.append((grid, prefix))
    # The whole image as one position: hardly.
    several = [[(grid, prefix) for grid, prefix in found if math.prod(grid) > 1] for found in (exact, rounded)]
    return (several[0] or exact, several[1] or rounded) if any(several) else (exact, rounded)


def factorisations(count: int, rank: int) -> list[tuple[int, ...]]:
    """Every grid of ``rank`` dimensions that has ``count`` positions."""
    if rank == 1:
        return [(count,)]
    return [
        (head, *tail)
        for head in range(1, count + 1)
        if count % head == 0
        for tail in factorisations(count // head, rank - 1)
    ]


def _exact(grid: Sequence[int], size: Sequence[int]) -> bool:
    grid, size = grid[-2:], size[-2:]
    return all(a * size[j] == b * size[i] for (i, a), (j, b) in itertools.combinations(enumerate(grid), 2))


def same_proportions(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether ``grid`` is ``size`` divided by one number, give or take a position lost to borders.

    The first dimension of a volume, its frames or slices, may be divided by another number.
    """
    if len(grid) == 3 and grid[0] > size[0]:
        return False
    grid, size = grid[-2:], size[-2:]
    return all(
        abs(b * size[i] - a * size[j]) <= max(size[i], size[j])
        for (i, a), (j, b) in itertools.combinations(enumerate(grid), 2)
    )
