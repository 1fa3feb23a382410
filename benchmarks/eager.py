"""Each op as a skilled user would write it by hand in eager PyTorch: several ways, of which a benchmark takes the fastest.

``camfast.reference`` is no baseline: it is written to be an oracle, normalises twice, handles NaN and Inf, and makes
intermediate tensors that nobody needs. Here a map is normalised once, after the resize, and every variant is one that
was found to be the fastest somewhere: the channel sum as a broadcast product, as an ``einsum``, or as a batched matrix
product; a component by the Gram matrix of the positions or by a singular value decomposition.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from op_cases import OpCase
from torch import Tensor

from camfast.ops import colormaps

__all__ = ["fastest", "variants"]

Call = Callable[..., Tensor]

_MODES = ("linear", "bilinear", "trilinear")


def variants(case: OpCase, alpha: float = 0.5) -> dict[str, Call]:
    """The ways to compute ``case``, by name. Each takes the case's tensors."""
    if case.op == "overlay":
        return _overlays(alpha)
    if case.op == "mask_images":
        return {"masks": _mask_images}
    if case.op == "resize_normalize":
        return {"resize": lambda maps: _scaled(_resized(maps.float(), case.size), len(case.size))}
    if case.op == "eigen_cam":
        return {name: _finished(project, case) for name, project in (("gram", _by_gram), ("svd", _by_svd))}
    if case.op == "kpca_cam":
        return {"kernel": _finished(_by_kernel, case)}
    if case.op in _ELEMENTWISE:
        return {name: _finished(maps, case) for name, maps in _ELEMENTWISE[case.op].items()}
    weights = _WEIGHTS[case.op]
    return {
        name: _finished(lambda A, G, total=total: total(*weights(A, G)), case)
        for name, total in (("matmul", _by_matmul), ("product", _by_product), ("einsum", _by_einsum))
    }


def fastest(calls: dict[str, Call], tensors: tuple[Tensor, ...], seconds: float = 0.1) -> tuple[str, Call]:
    """The quickest of ``calls`` on ``tensors`` and its name: medians of calls in turn, the device waited for."""
    if len(calls) == 1:
        return next(iter(calls.items()))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    for turn in range(1000):
        for name, call in calls.items():
            start = time.perf_counter()
            call(*tensors)
            if tensors[0].is_cuda:
                torch.cuda.synchronize()
            if turn:  # the first calls are cold
                times[name].append(time.perf_counter() - start)
        if turn >= 3 and time.perf_counter() > end:
            break
    best = min(times, key=lambda name: sorted(times[name])[len(times[name]) // 2])
    return best, calls[best]


def _finished(maps: Call, case: OpCase) -> Call:
    """``maps`` ``[N, (K,) *map]``, then ReLU, resize and one min-max."""
    rank = len(case.size)

    def call(*tensors: Tensor) -> Tensor:
        return _scaled(_resized(maps(*tensors).relu_(), case.size), rank)

    return call


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    rank = len(size)
    lead = maps.shape[: maps.ndim - rank]
    flat = maps.reshape(-1, 1, *maps.shape[maps.ndim - rank :])
    return F.interpolate(flat, size, mode=_MODES[rank - 1]).reshape(*lead, *size)


def _scaled(maps: Tensor, rank: int) -> Tensor:
    flat = maps.flatten(maps.ndim - rank)
    low, high = flat.aminmax(dim=-1, keepdim=True)
    return flat.sub_(low).div_((high - low).add_(1e-7)).view_as(maps)


# Weighted sums over channels: weights [N, C] or [N, K, C] of activations [N, C, *map] ---------------------------------


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _mean_weights(A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    own = G.flatten(3 if G.ndim > A.ndim else 2)
    return _wide(A), own.mean(-1, dtype=torch.float64 if own.dtype == torch.float64 else torch.float32)


def _given_weights(A: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _wide(A), _wide(w)


def _plus_plus_weights(A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    A, G = _wide(A), _wide(G)
    own = G.flatten(3 if G.ndim > A.ndim else 2)
    total = A.flatten(2).sum(-1, keepdim=True)
    g2 = own * own
    lower = torch.addcmul(2 * g2, g2 * own, total if own.ndim == 3 else total.unsqueeze(1)).add_(1e-6)
    return A, (own.clamp(min=0).mul_(g2).div_(lower)).sum(-1)


def _xgrad_weights(A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    A, G = _wide(A), _wide(G)
    flat = A.flatten(2)
    own = G.flatten(3 if G.ndim > A.ndim else 2)
    total = flat.sum(-1) + 1e-7
    if own.ndim == 3:
        return A, torch.einsum("ncs,ncs->nc", own, flat) / total
    return A, torch.einsum("nkcs,ncs->nkc", own, flat) / total.unsqueeze(1)


_WEIGHTS = {
    "cam": _given_weights,
    "grad_cam": _mean_weights,
    "grad_cam_plus_plus": _plus_plus_weights,
    "xgrad_cam": _xgrad_weights,
}


def _by_matmul(A: Tensor, w: Tensor) -> Tensor:
    rows = w if w.ndim == 3 else w.unsqueeze(1)
    maps = torch.bmm(rows, A.flatten(2)).unflatten(-1, A.shape[2:])
    return maps if w.ndim == 3 else maps.squeeze(1)


def _by_product(A: Tensor, w: Tensor) -> Tensor:
    shaped = w[(...,) + (None,) * (A.ndim - 2)]
    return (shaped * (A if w.ndim == 2 else A.unsqueeze(1))).sum(1 if w.ndim == 2 else 2)


def _by_einsum(A: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("nc,nc...->n..." if w.ndim == 2 else "nkc,nc...->nk...", w, A)


# Rules that weigh every position by itself ---------------------------------------------------------------------------


def _per_target(A: Tensor, G: Tensor) -> tuple[Tensor, Tensor, int]:
    A, G = _wide(A), _wide(G)
    return (A, G, 1) if G.ndim == A.ndim else (A.unsqueeze(1), G, 2)


def _hires(A: Tensor, G: Tensor) -> Tensor:
    A, G, channels = _per_target(A, G)
    return (G * A).sum(channels)


def _hires_einsum(A: Tensor, G: Tensor) -> Tensor:
    return torch.einsum("nc...,nc...->n..." if G.ndim == A.ndim else "nkc...,nc...->nk...", _wide(G), _wide(A))


def _layer(A: Tensor, G: Tensor) -> Tensor:
    A, G, channels = _per_target(A, G)
    return G.clamp(min=0).mul_(A).sum(channels)


def _layer_einsum(A: Tensor, G: Tensor) -> Tensor:
    return _hires_einsum(A, _wide(G).clamp(min=0))


def _elementwise(A: Tensor, G: Tensor) -> Tensor:
    A, G, channels = _per_target(A, G)
    return (G * A).relu_().sum(channels)


_ELEMENTWISE: dict[str, dict[str, Call]] = {
    "hires_cam": {"product": _hires, "einsum": _hires_einsum},
    "layer_cam": {"product": _layer, "einsum": _layer_einsum},
    "grad_cam_elementwise": {"product": _elementwise},
}


# Principal components of the positions [S, C] ------------------------------------------------------------------------


def _rows(A: Tensor) -> Tensor:
    rows = _wide(A).flatten(2).mT  # [N, S, C]
    return rows - rows.mean(1, keepdim=True)


def _by_gram(A: Tensor) -> Tensor:
    rows = _rows(A)
    values, vectors = torch.linalg.eigh(rows @ rows.mT)
    return _signed(vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt(), A)


def _by_svd(A: Tensor) -> Tensor:
    U, S, _ = torch.linalg.svd(_rows(A), full_matrices=False)
    return _signed(U[..., 0] * S[..., :1], A)


def _by_kernel(A: Tensor) -> Tensor:
    rows = _rows(A)
    kernel = torch.tanh(rows @ rows.mT / rows.shape[-1] + 1)
    column = kernel.mean(1, keepdim=True)
    kernel = kernel - column - column.mT + column.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(kernel)
    return _signed(vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt(), A)


def _signed(projection: Tensor, A: Tensor) -> Tensor:
    low, high = projection.aminmax(dim=-1, keepdim=True)
    return torch.where(-low > high, -projection, projection).unflatten(-1, A.shape[2:])


# Pictures ------------------------------------------------------------------------------------------------------------


def _overlays(alpha: float) -> dict[str, Call]:
    tables: dict[torch.device, Tensor] = {}

    def colours(device: torch.device) -> Tensor:
        if device not in tables:
            tables[device] = colormaps.table("jet", device).float() * alpha + 0.5
        return tables[device]

    def indexed(frames: Tensor, heatmap: Tensor) -> Tensor:
        index = _resized(heatmap, tuple(frames.shape[1:3])).mul_(255).clamp_(0, 255).to(torch.int32)
        return torch.add(colours(frames.device)[index], frames, alpha=1 - alpha).to(torch.uint8)

    def embedded(frames: Tensor, heatmap: Tensor) -> Tensor:
        index = _resized(heatmap, tuple(frames.shape[1:3])).mul_(255).clamp_(0, 255).to(torch.int32)
        return F.embedding(index, colours(frames.device)).add_(frames, alpha=1 - alpha).to(torch.uint8)

    return {"indexed": indexed, "embedding": embedded}


def _mask_images(images: Tensor, maps: Tensor) -> Tensor:
    rank = images.ndim - 2
    mode = _MODES[rank - 1]
    masks = F.interpolate(_wide(maps), images.shape[2:], mode=mode, align_corners=True).flatten(2)
    low, high = masks.aminmax(dim=-1, keepdim=True)
    masks = masks.sub_(low).div_((high - low).add_(1e-8)).unflatten(-1, images.shape[2:]).to(images.dtype)
    return (images.unsqueeze(1) * masks.unsqueeze(2)).flatten(0, 1)
