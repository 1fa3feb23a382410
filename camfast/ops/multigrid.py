"""Noisy linear imputation in plain PyTorch, for all images at once and without a matrix.

Conjugate gradients whose preconditioner is a multigrid V-cycle, started from the solution on coarser grids. Times 12, the
system reads ``center * x - S x = 0`` at removed pixels, with ``S = [1 2 1]^T [1 2 1]``, four additions of shifted planes.
"""

from __future__ import annotations

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["TOLERANCE", "linear_imputation"]

TOLERANCE = 0.002
"""Of the solution: a fifth of ROAD's noise."""

_ROUNDS = 60
_NESTED = 1  # rounds on coarser grids, whose solution is but a start
_COARSEST = 8  # the longer side of a grid whose system is inverted
_LEAST = 1e-30
_ELEMENTS = 2**20  # of an image stack that is solved at once on the CPU: what stays in its caches


def linear_imputation(
    images: Tensor, removed: Tensor, noise: Tensor | None = None, tolerance: float = TOLERANCE
) -> Tensor:
    """``images`` ``[B, C, H, W]`` with the solution, and ``noise``, where the pixels of ``removed`` ``[B, H, W]`` are.

    What removed pixels held counts only where an image has no others: its mean takes their place. In a plane where a pixel
    that is left is not finite, those removed are NaN.
    """
    if not images.numel():
        return images.clone()
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, _ELEMENTS // max(1, images[0].numel()))
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        values = images if images.dtype == torch.float64 else images.float()
        parts = zip(values.split(size), removed.split(size), strict=True)
        filled = torch.cat([_solved(part, gone, tolerance) for part, gone in parts])
        if noise is not None:
            filled = filled + noise
        return torch.where(removed.unsqueeze(1), filled.to(images.dtype), images)


def _solved(images: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """``images`` with the solution at removed pixels."""
    blank = removed.flatten(1).all(1)[:, None, None, None]
    gone = removed.unsqueeze(1)
    amiss = (~images.isfinite() & ~gone).flatten(2).any(2)[..., None, None]
    grids = _grids(removed & ~blank[:, 0], images)
    pictures = [images.masked_fill(gone | amiss, 0)]
    for fine, coarse in itertools.pairwise(grids):
        pictures.append(fine.known_means(pictures[-1], coarse))
    for level in range(len(grids) - 1, -1, -1):
        grid, picture = grids[level], pictures[level]
        if level == len(grids) - 1:
            grid.inner(grid.y).copy_(picture)
        else:
            grid.spread(grids[level + 1].y, grid.y)
            grid.inner(grid.y).copy_(torch.where(grid.removed, grid.inner(grid.y) / 16, picture))
        finest = level == 0
        _conjugate_gradients(grids[level:], tolerance if finest else None, _ROUNDS if finest else _NESTED)
    found = torch.where(blank, images.mean((-2, -1), keepdim=True), grids[0].inner(grids[0].y))
    return found.masked_fill(amiss, torch.nan)


class _Grid:
    """The system on one grid. Stacks have a border of zeros, ``[B, C, h + 2, w + 2]``, which no step writes to.

    Args:
        removed: bool ``[B, h, w]``. inside: bool ``[h, w]``, what is of the picture. like: gives dtype, device, channels.
    """

    def __init__(self, removed: Tensor, inside: Tensor, like: Tensor) -> None:
        (B, h, w), C = removed.shape, like.shape[1]
        self.size, self.pixels = (h, w), inside
        self.removed = removed.unsqueeze(1)
        self.mask = self.removed.to(like.dtype)
        kernel = like.new_tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]])[None, None]
        weights = F.conv2d(inside.to(like.dtype)[None, None], kernel, padding=1)[0, 0].clamp(min=1)
        self.center = weights + 4
        self.jacobi = self.mask / weights  # a step of Jacobi's iteration: x += jacobi * residual
        self.y, self.x, self.b, self.p, self.q = (like.new_zeros(B, C, h + 2, w + 2) for _ in range(5))
        self.x_times = torch.empty_like(self.x)
        self._rows, self._rows_2 = like.new_empty(B, C, h + 1, w + 2), like.new_empty(B, C, h, w + 2)
        self._columns, self._sum = like.new_empty(B, C, h, w + 1), like.new_empty(B, C, h, w)
        even = [h + h % 2, w + w % 2]
        self._fine = like.new_zeros(B, C, even[0] + 6, even[1] + 6)

    @functools.cached_property
    def inverse(self) -> Tensor:
        """Of the system, where known pixels stay as they are: ``[B, 1, h * w, h * w]``."""
        S = functools.reduce(torch.kron, map(_one_two_one, self.size)).to(self.center)
        mask = self.mask.flatten(2)
        both = mask.unsqueeze(-1) * mask.unsqueeze(-2)
        return torch.linalg.inv(both * (torch.diag(self.center.flatten()) - S) + torch.diag_embed(1 - mask))

    @staticmethod
    def inner(stack: Tensor) -> Tensor:
        """``stack`` without its border."""
        return stack[:, :, 1:-1, 1:-1]

    def residual(self, x: Tensor) -> Tensor:
        """``S x - center * x``, also where nothing is removed. It lies in memory that the next call takes."""
        torch.add(x[:, :, 1:], x[:, :, :-1], out=self._rows)
        torch.add(self._rows[:, :, 1:], self._rows[:, :, :-1], out=self._rows_2)
        torch.add(self._rows_2[..., 1:], self._rows_2[..., :-1], out=self._columns)
        torch.add(self._columns[..., 1:], self._columns[..., :-1], out=self._sum)
        return self._sum.addcmul_(self.inner(x), self.center, value=-1)

    def smoothed(self) -> None:
        """A step of Jacobi's iteration for ``A x = b``."""
        self.inner(self.x).addcmul_(self.residual(self.x).add_(self.inner(self.b)), self.jacobi)

    def gather(self, fine: Tensor, out: Tensor) -> None:
        """The transpose of :meth:`spread`: ``fine`` ``[B, C, h, w]`` summed on the coarser grid, into ``out``'s inner part."""
        f = self._fine
        torch.mul(fine, self.mask, out=f[:, :, 3 : 3 + self.size[0], 3 : 3 + self.size[1]])
        rows = (f[:, :, 1:-2:2] + f[:, :, 2:-1:2]).mul_(3).add_(f[:, :, :-3:2]).add_(f[:, :, 3::2])
        rows[:, :, 1].add_(rows[:, :, 0])
        rows[:, :, -2].add_(rows[:, :, -1])
        rows = rows[:, :, 1:-1]
        both = (rows[..., 1:-2:2] + rows[..., 2:-1:2]).mul_(3).add_(rows[..., :-3:2]).add_(rows[..., 3::2])
        both[..., 1].add_(both[..., 0])
        both[..., -2].add_(both[..., -1])
        torch.mul(both[..., 1:-1], 1 / 16, out=self.inner(out))

    def spread(self, coarse: Tensor, out: Tensor | None = None) -> Tensor:
        """``coarse`` interpolated linearly between the centres of its cells, times 16."""
        B, C, h, w = self.inner(coarse).shape
        e = F.pad(self.inner(coarse), (1, 1, 1, 1), mode="replicate")
        rows = coarse.new_empty(B, C, 2 * h, w + 2)
        torch.add(e[:, :, :-2], e[:, :, 1:-1], alpha=3, out=rows[:, :, ::2])
        torch.add(e[:, :, 2:], e[:, :, 1:-1], alpha=3, out=rows[:, :, 1::2])
        both = coarse.new_empty(B, C, 2 * h, 2 * w)
        torch.add(rows[..., :-2], rows[..., 1:-1], alpha=3, out=both[..., ::2])
        torch.add(rows[..., 2:], rows[..., 1:-1], alpha=3, out=both[..., 1::2])
        fine = both[:, :, : self.size[0], : self.size[1]]
        if out is not None:
            self.inner(out).copy_(fine)
        return fine

    def known_means(self, picture: Tensor, coarse: _Grid) -> Tensor:
        """``picture`` on the coarser grid: the mean of the known pixels of each of its cells, 0 where there are none."""
        h, w = coarse.size
        pad = (0, 2 * w - self.size[1], 0, 2 * h - self.size[0])
        known = F.pad((~self.removed & self.pixels).to(picture.dtype), pad)
        total = F.avg_pool2d(F.pad(picture, pad) * known, 2)
        return total / F.avg_pool2d(known, 2).clamp(min=0.25)


def _grids(removed: Tensor, like: Tensor) -> list[_Grid]:
    """The picture's grid, and coarser ones of half the size each. A cell is removed where all of its pixels are."""
    inside = torch.ones(removed.shape[1:], dtype=torch.bool, device=removed.device)
    grids = [_Grid(removed, inside, like)]
    while max(removed.shape[1:]) > _COARSEST:
        (H, W), (h, w) = removed.shape[1:], ((length + 1) // 2 for length in removed.shape[1:])
        pad = (0, 2 * w - W, 0, 2 * h - H)
        inside = F.pad(inside, pad)
        gone = (F.pad(removed, pad) | ~inside).unflatten(2, (w, 2)).all(3).unflatten(1, (h, 2)).all(2)
        inside = inside.unflatten(1, (w, 2)).any(2).unflatten(0, (h, 2)).any(1)
        removed = gone & inside
        grids.append(_Grid(removed, inside, like))
    return grids


def _one_two_one(count: int) -> Tensor:
    """``[count, count]``: twice a number and its two neighbours."""
    one = torch.ones(count, count)
    return 2 * torch.eye(count) + one.triu(1).tril(1) + one.triu(-1).tril(-1)


def _v_cycle(grids: list[_Grid]) -> Tensor:
    """An approximate solution ``x`` of ``A x = b`` on the first of ``grids``, linear and symmetric in ``b``."""
    grid = grids[0]
    if len(grids) == 1:
        flat = grid.inner(grid.b).flatten(2).unsqueeze(-1)
        grid.inner(grid.x).copy_((grid.inverse @ flat).view_as(grid.inner(grid.x)))
        return grid.x
    torch.mul(grid.inner(grid.b), grid.jacobi, out=grid.inner(grid.x))
    coarse = grids[1]
    grid.gather(grid.residual(grid.x).add_(grid.inner(grid.b)), coarse.b)
    coarse.inner(coarse.b).mul_(coarse.mask)
    grid.inner(grid.x).addcmul_(grid.spread(_v_cycle(grids[1:])), grid.mask, value=1 / 16)
    grid.smoothed()
    return grid.x


def _conjugate_gradients(grids: list[_Grid], tolerance: float | None, rounds: int) -> None:
    """Brings ``y`` of the first grid nearer to the solution: until the preconditioner sees less than ``tolerance`` amiss."""
    grid = grids[0]
    y, r, p, q = grid.y, grid.b, grid.p, grid.q
    torch.mul(grid.residual(y), grid.mask, out=grid.inner(r))
    before: Tensor | None = None
    for _ in range(rounds):
        z = _v_cycle(grids)
        if tolerance is not None and max(map(abs, torch.stack(z.aminmax()).tolist())) < tolerance:
            break
        now = torch.mul(r, z, out=grid.x_times).sum((-2, -1), keepdim=True)
        if before is None:
            p.copy_(z)
        else:
            p.mul_(now / before.clamp(min=_LEAST)).add_(z)
        before = now
        torch.mul(grid.residual(p), grid.mask, out=grid.inner(q))  # - A p
        step = now / torch.mul(p, q, out=grid.x_times).sum((-2, -1), keepdim=True).clamp(max=-_LEAST)
        y.addcmul_(p, step, value=-1)
        r.addcmul_(q, step, value=-1)
    else:
        return
    y.add_(z)
