"""From activations to a heatmap in plain operations: what the fused ops compute, for runtimes that do not have these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.weights import MapOp, weights_of
from ..model.precision import wide_dtype
from ..ops.reference import min_max

__all__ = ["eigen_map", "fem_map", "finished", "gradient_map", "mean_map", "spots", "steps", "weighted_map"]

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SQUARINGS = 12  # of the matrix whose first component is sought: as many as 4096 steps of a power iteration


def weighted_map(activations: Tensor, weights: Tensor) -> Tensor:
    """The sum of channels ``[N, C, *map]`` by ``weights``: ``[N, C]`` or ``[1, C]`` give ``[N, *map]``, ``[N, K, C]`` give
    ``[N, K, *map]``."""
    A = activations.to(wide_dtype(activations))
    rows = weights.to(A)
    found = (rows if rows.ndim == 3 else rows.unsqueeze(1)) @ A.flatten(2)  # [N, K, S]
    found = found.unflatten(2, A.shape[2:])
    return found if rows.ndim == 3 else found.squeeze(1)


def gradient_map(op: MapOp, activations: Tensor, gradients: Tensor) -> Tensor:
    """The raw map of a method of gradients ``[N, (K,) C, *map]``, by the weight rule of its op."""
    W = weights_of(op, activations, gradients)
    if W.ndim < gradients.ndim:
        return weighted_map(activations, W)
    A = activations.to(W)
    return (W * (A if W.ndim == A.ndim else A.unsqueeze(1))).sum(-(A.ndim - 1))


def mean_map(activations: Tensor) -> Tensor:
    """The mean over channels, ``[N, *map]``."""
    return activations.to(wide_dtype(activations)).mean(1)


def fem_map(activations: Tensor, k: float = 2.0) -> Tensor:
    """FEM: a channel's weight is its share of positions above mean + k standard deviations."""
    flat = activations.to(wide_dtype(activations)).flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    deviation = (centred * centred).mean(2, keepdim=True).sqrt()
    return weighted_map(activations, (centred > k * deviation).to(flat).mean(2))


def eigen_map(activations: Tensor) -> Tensor:
    """Eigen-CAM: centred positions on their first principal component, the largest entry positive; ``[N, *map]``.

    The component is found by squaring the smaller of the two product matrices, a power iteration of a fixed length. Where
    the first two components are nearly as large as each other it tells them apart less well than a decomposition.
    """
    A = activations.to(wide_dtype(activations)).flatten(2)
    finite = torch.where(A.isnan(), 0, A)
    rows = finite - finite.mean(2, keepdim=True)  # [N, C, S]
    channels, positions = A.shape[1:]
    matrix = rows.mT @ rows if positions <= channels else rows @ rows.mT
    for _ in range(_SQUARINGS):
        # The trace, and never 0: a blank map has no component.
        matrix = matrix / (matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + torch.finfo(A.dtype).tiny)
        matrix = matrix @ matrix
    # Every column is the component, times its entry there: the longest one is told best.
    longest = matrix.diagonal(dim1=1, dim2=2).argmax(1)
    own = (torch.arange(matrix.shape[1], device=A.device) == longest[:, None]).to(A)
    component = (matrix @ own[:, :, None]).squeeze(2)
    component = component / (component.square().sum(1, keepdim=True).sqrt() + torch.finfo(A.dtype).tiny)
    if positions <= channels:
        # A position's projection is its entry times the singular value: the length of what the entries make of the rows.
        value = (rows @ component[:, :, None]).squeeze(2).square().sum(1, keepdim=True).sqrt()
        found = component * value
    else:
        found = (component[:, None] @ rows).squeeze(1)
    # Of entries that are equally large, but for rounding, the first one counts: the ramp has its maximum there.
    magnitude = found.abs()
    equal = (magnitude >= (1 - 8 * torch.finfo(A.dtype).eps) * magnitude.amax(1, keepdim=True)).to(A)
    ramp = torch.arange(positions, 0, -1, device=A.device)
    largest = (torch.arange(positions, device=A.device) == (equal * ramp).argmax(1)[:, None]).to(A)
    found = found * torch.where((found * largest).sum(1, keepdim=True) < 0, -1.0, 1.0).to(A)
    known = finite.isfinite().all(2).all(1)[:, None]
    return torch.where(known, found, torch.nan).unflatten(1, activations.shape[2:])


def spots(size: Sequence[int], gaussian: bool = True) -> Tensor:
    """``[S, *size]``: for each position a mask of 3 positions a side around it, 1/2 in the middle and 1/4 beside it.

    Without ``gaussian`` a mask of that position alone.
    """
    sides = []
    for n in size:
        beside = torch.full((n - 1,), 0.25)
        around = torch.eye(n) / 2 + torch.diag(beside, 1) + torch.diag(beside, -1)
        sides.append(around if gaussian else torch.eye(n))
    masks = []
    for places in itertools.product(*map(range, size)):
        mask = torch.ones(())
        for side, place in zip(sides, places, strict=True):
            mask = mask.unsqueeze(-1) * side[place]
        masks.append(mask)
    return torch.stack(masks)


def steps(length: int, new: int) -> Tensor:
    """The linear resize of ``length`` positions as a matrix ``[new, length]``."""
    return F.interpolate(torch.eye(length)[None], size=new, mode="linear", align_corners=False)[0].t().contiguous()


def finished(
    maps: Sequence[Tensor], rank: int, size: Sequence[int], normalize: bool, matrices: Sequence[Tensor] = ()
) -> Tensor:
    """The heatmap ``[N, (K,) *size]`` of the raw maps ``[N, (K,) *map]`` of one layer, or of several.

    Normalised: ReLU, min-max, resize, mean over layers, min-max. Raw: resize, mean over layers.

    Args:
        maps: raw, one for each layer.
        rank: how many dimensions a map has.
        size: of the heatmap.
        normalize: whether to bring it to [0, 1].
        matrices: of :func:`steps`, one for each dimension: normalised maps of that size are resized by products with these,
            which take other runtimes a tenth of the time of their own resizing.
    """
    resized = []
    for own in maps:
        own = min_max(own.clamp(min=0), rank) if normalize else own
        # In a product NaN spreads over the whole map. A normalised map is NaN throughout anyway.
        if normalize and matrices and tuple(own.shape[-rank:]) == tuple(matrix.shape[1] for matrix in matrices):
            resized.append(_multiplied(own, matrices))
        else:
            resized.append(_resized(own, rank, size))
    if len(resized) == 1:
        return min_max(resized[0], rank) if normalize else resized[0]
    fused = torch.stack(resized).mean(0)
    return min_max(min_max(fused, rank), rank) if normalize else fused


def _multiplied(maps: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    for axis, matrix in enumerate(matrices, -len(matrices)):
        if axis == -1:
            maps = maps @ matrix.to(maps).t()
        elif axis == -2:
            maps = matrix.to(maps) @ maps
        else:
            maps = (maps.movedim(axis, -1) @ matrix.to(maps).t()).movedim(-1, axis)
    return maps


def _resized(maps: Tensor, rank: int, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-rank:]) == tuple(size):
        return maps
    lone = maps.ndim == rank + 1
    given = maps.unsqueeze(1) if lone else maps
    given = F.interpolate(given, size=tuple(size), mode=_INTERPOLATION[rank], align_corners=False)
    return given.squeeze(1) if lone else given
