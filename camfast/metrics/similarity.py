"""How alike two heatmaps are: by their values, by the order of these, by their structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SIMILARITIES", "pearson", "spearman", "ssim"]

_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each pair of planes.

    Args:
        a: ``[P, *size]``, floating.
        b: the same.

    Returns:
        float64 ``[P]`` in [-1, 1]; NaN where one of the two is constant or not finite.
    """
    a, b = (planes.flatten(1).double() for planes in (a, b))
    a, b = (planes - planes.mean(1, keepdim=True) for planes in (a, b))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(lengths > 0, (a * b).sum(1) / lengths, torch.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of planes; equal values share their mean rank, as SciPy's do.

    Args:
        a: ``[P, *size]``, floating.
        b: the same.

    Returns:
        float64 ``[P]`` in [-1, 1]; NaN where one of the two is constant.
    """
    return pearson(*(_ranks(planes.flatten(1)) for planes in (a, b)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair of planes (Wang 2004, equation 13), in windows of 7 x 7 as scikit-image's.

    Args:
        a: ``[P, H, W]``, floating; the range of values is that of both planes of a pair.
        b: the same.

    Returns:
        float64 ``[P]``, at most 1; NaN where both are constant and equal.

    Raises:
        ValueError: for planes smaller than a window.
    """
    if a.ndim != 3 or min(a.shape[1:]) < _WINDOW:
        raise ValueError(f"ssim needs planes of at least {_WINDOW} x {_WINDOW}, got {list(a.shape[1:])}")
    a, b = a.double(), b.double()
    both = torch.stack([a, b], 1).flatten(1)
    span = (both.amax(1) - both.amin(1))[:, None, None]
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    mean = lambda planes: F.avg_pool2d(planes.unsqueeze(1), _WINDOW, 1)[:, 0]  # noqa: E731
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    ma, mb = mean(a), mean(b)
    va, vb, cov = sample * (mean(a * a) - ma * ma), sample * (mean(b * b) - mb * mb), sample * (mean(a * b) - ma * mb)
    found = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return found.mean((1, 2))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"spearman": spearman, "pearson": pearson, "ssim": ssim}


def _ranks(rows: Tensor) -> Tensor:
    """The rank of each value in its row ``[P, L]``, from 0 on; equal values share the mean of theirs."""
    ordered, order = rows.sort(1)
    places = torch.arange(rows.shape[1], device=rows.device, dtype=torch.float64).expand_as(rows)
    first = torch.searchsorted(ordered, ordered, right=False)
    last = torch.searchsorted(ordered, ordered, right=True) - 1
    return torch.empty_like(places).scatter_(1, order, (first + last).double() / 2)
