"""The ops of :mod:`camfast.ops` in plain PyTorch: the oracle of the tests and the fallback for devices without kernels.

Readable before fast: nothing here is optimised. Formulas follow the papers named in each docstring, with the epsilons
of pytorch-grad-cam 1.5.7, to which results are equal.

Conventions, shared with the kernels:

- ``activations`` is ``[N, C, *map]``; ``gradients`` is ``[N, C, *map]`` or, for K targets an image, ``[N, K, C, *map]``;
  ``map`` has one, two or three dimensions.
- fp16 and bf16 are computed and returned in fp32; fp64 stays fp64.
- With ``normalize=True`` the raw map goes through ReLU, min-max, bilinear resize, min-max, and the result lies in [0, 1].
  A constant map gives zeros. A non-finite value anywhere in one low-resolution map makes the whole of that heatmap NaN,
  and reaches no other image and no other target.
- With ``normalize=False`` the raw (signed) map is only resized.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .multigrid import linear_imputation

__all__ = [
    "cam",
    "eigen_cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "kpca_cam",
    "layer_cam",
    "linear_imputation",
    "mask_images",
    "overlay",
    "preprocess",
    "resize_normalize",
    "tile_maps",
    "xgrad_cam",
]

RANGE_EPS = 1e-7  # added to the range of every min-max
XGRAD_EPS = 1e-7
PLUS_PLUS_EPS = 1e-6
MASK_EPS = 1e-8
SIGN_TIE = 1e-9  # entries whose magnitudes differ by less, as a share, are equally large


def cam(activations: Tensor, weights: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Class activation map: the sum of the channels, weighted by ``weights`` ``[N, C]`` or ``[N, K, C]`` (Zhou 2016, eq. 2)."""
    A, w = _accumulated(activations, weights)
    return _finish(_weighted_sum(A, w), size, normalize, A.ndim - 2)


def grad_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Grad-CAM: a channel's weight is the mean of its gradients (Selvaraju 2017, eq. 1 and 2)."""
    A, G = _accumulated(activations, gradients)
    return _finish(_weighted_sum(A, G.flatten(-(A.ndim - 2)).mean(-1)), size, normalize, A.ndim - 2)


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Grad-CAM++: positive gradients, weighted by the closed form of their second and third powers (Chattopadhay 2018, eq. 19)."""
    A, G = _accumulated(activations, gradients)
    rank = A.ndim - 2
    sum_A = _per_target(A, G).flatten(-rank).sum(-1)[(...,) + (None,) * rank]
    g2, g3 = G * G, G * G * G
    alpha = g2 / (2 * g2 + sum_A * g3 + PLUS_PLUS_EPS)
    alpha = torch.where(G != 0, alpha, 0)
    w = (positive(G) * alpha).flatten(-rank).sum(-1)
    return _finish(_weighted_sum(A, w), size, normalize, rank)


def xgrad_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """XGrad-CAM: gradients weighted by their share of the channel's activation (Fu 2020, eq. 8)."""
    A, G = _accumulated(activations, gradients)
    rank = A.ndim - 2
    A_k = _per_target(A, G)
    w = (G * A_k).flatten(-rank).sum(-1) / (A_k.flatten(-rank).sum(-1) + XGRAD_EPS)
    return _finish(_weighted_sum(A, w), size, normalize, rank)


def hires_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """HiResCAM: the sum over channels of gradient times activation, element by element (Draelos 2020, eq. 3)."""
    A, G = _accumulated(activations, gradients)
    return _finish(_channel_sum(G * _per_target(A, G), A), size, normalize, A.ndim - 2)


def layer_cam(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """LayerCAM: the sum over channels of positive gradient times activation (Jiang 2021, eq. 6 and 7)."""
    A, G = _accumulated(activations, gradients)
    return _finish(_channel_sum(positive(G) * _per_target(A, G), A), size, normalize, A.ndim - 2)


def grad_cam_elementwise(activations: Tensor, gradients: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Element-wise Grad-CAM: the sum over channels of the positive part of gradient times activation."""
    A, G = _accumulated(activations, gradients)
    return _finish(_channel_sum(positive(G * _per_target(A, G)), A), size, normalize, A.ndim - 2)


def eigen_cam(activations: Tensor, size=None, normalize: bool = True) -> Tensor:
    """Eigen-CAM: centred positions on their first principal component, the largest entry positive (Muhammad 2020, eq. 3).

    NaN counts as 0; an image with Inf gets a heatmap of NaN.
    """
    (A,) = _accumulated(activations)
    rank = A.ndim - 2
    maps = A.new_empty(A.shape[0], *A.shape[2:])
    for own, image in zip(maps, A.double(), strict=True):
        rows = torch.where(image.isnan(), 0, image).flatten(1).t()  # [S, C]
        if not rows.isfinite().all():
            own.fill_(torch.nan)
            continue
        rows = rows - rows.mean(0)
        projection = rows @ torch.linalg.svd(rows, full_matrices=False).Vh[0]
        own.copy_(_signed(projection).reshape(own.shape))
    return _finish(maps, size, normalize, rank)


def kpca_cam(activations: Tensor, size=None, normalize: bool = True, gamma: float | None = None) -> Tensor:
    """KPCA-CAM: the first component of a kernel PCA of the centred positions, ``tanh(gamma * x.y + 1)`` (Karmani 2024).

    ``gamma`` is one over the number of channels where it is None. NaN and Inf as in :func:`eigen_cam`.
    """
    (A,) = _accumulated(activations)
    maps = A.new_empty(A.shape[0], *A.shape[2:])
    for own, image in zip(maps, A.double(), strict=True):
        rows = torch.where(image.isnan(), 0, image).flatten(1).t()  # [S, C]
        if not rows.isfinite().all():
            own.fill_(torch.nan)
            continue
        rows = rows - rows.mean(0)
        kernel = torch.tanh(rows @ rows.t() * (1 / rows.shape[1] if gamma is None else gamma) + 1)
        kernel = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
        values, vectors = torch.linalg.eigh(kernel)
        own.copy_(_signed(vectors[:, -1] * values[-1].clamp(min=0).sqrt()).reshape(own.shape))
    return _finish(maps, size, normalize, A.ndim - 2)


def resize_normalize(maps: Tensor, size=None, normalize: bool = True, relu: bool = False) -> Tensor:
    """Min-max, linear resize and min-max of ``maps`` ``[..., *map]``, each map by itself.

    ``size`` names the output's dimensions and, by its length, how many of the last ones belong to a map (an int or None:
    two). ``relu`` cuts negative values off first.
    """
    (maps,) = _accumulated(maps)
    rank = len(size) if isinstance(size, Sequence) else 2
    size = _full_size(size, maps.shape[maps.ndim - rank :])
    if relu:
        maps = positive(maps)
    if normalize:
        maps = min_max(maps, rank)
    maps = resize(maps, size)
    return min_max(maps, rank) if normalize else maps


def preprocess(
    frames: Tensor,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    box: Sequence[float] | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Frames (uint8 ``[N, H, W, 3]``) as a network's input ``[N, 3, h, w]``: resized with antialiasing, scaled, normalised.

    Each output pixel is the average of the frame under a triangle, as wide as two output pixels (or two of the frame,
    whichever is wider), normalised where the frame's edge cuts it: ``F.interpolate(mode="bilinear", antialias=True)``.
    ``box`` ``(left, top, right, bottom)`` is the part of the frame that becomes the input, in pixels, edges not centres,
    as after a resize and a cut; what lies beyond the frame is black. Values are divided by 255 before ``mean`` and ``std``.
    """
    H, W = frames.shape[1:3]
    left, top, right, bottom = (0.0, 0.0, float(W), float(H)) if box is None else box
    rows = triangles(H, size[0], top, bottom, frames.device)
    columns = triangles(W, size[1], left, right, frames.device)
    images = torch.einsum("yi,nijc->nyjc", rows, frames.to(torch.float32))
    images = torch.einsum("xj,nyjc->ncyx", columns, images)
    mean_, std_ = (frames.new_tensor(numbers, dtype=torch.float32).view(3, 1, 1) for numbers in (mean, std))
    images = ((images / 255 - mean_) / std_).to(dtype)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def mask_images(images: Tensor, maps: Tensor, align_corners: bool = True, scale_first: bool = False) -> Tensor:
    """``images`` ``[N, P, *size]`` times each of their ``maps`` ``[N, C, *map]``: ``[N * C, P, *size]`` (Wang 2020, eq. 3).

    A map is resized and scaled to [0, 1] by its range + 1e-8, found after the resize, or before it with ``scale_first``.
    A map that is not finite makes its image NaN.
    """
    x, m = _accumulated(images, maps)
    masks = score_masks(m.to(x.dtype), images.shape[2:], align_corners, scale_first)
    return (x.unsqueeze(1) * masks.unsqueeze(2)).flatten(0, 1).to(images.dtype)


def score_masks(maps: Tensor, size: Sequence[int], align_corners: bool = True, scale_first: bool = False) -> Tensor:
    """The masks of :func:`mask_images`, ``[N, C, *size]``."""
    rank = len(size)
    maps = min_max(maps, rank, MASK_EPS) if scale_first else from_zero(maps, rank)
    maps = resize(maps, size, align_corners)
    return maps if scale_first else min_max(maps, rank, MASK_EPS)


def overlay(frames: Tensor, heatmap: Tensor, colors: Tensor, alpha: float = 0.5) -> Tensor:
    """Colours ``heatmap`` by the table ``colors`` (uint8 ``[256, 3]``) and blends it over ``frames`` (uint8 ``[N, H, W, 3]``).

    The heatmap is resized to the frames, clamped to [0, 1] and looked up at ``trunc(255 * value)``; the result is
    ``(1 - alpha) * frame + alpha * colour``, rounded to nearest, halves up. Where the heatmap is NaN the frame shows through.
    """
    heat = resize(heatmap.to(torch.float32), frames.shape[-3:-1])
    unknown = heat.isnan()
    index = (heat.nan_to_num(0.0).clamp(0, 1) * 255).to(torch.int64)
    blended = frames * (1 - alpha) + colors.to(torch.float32)[index] * alpha
    blended = (blended + 0.5).floor().to(torch.uint8)
    return torch.where(unknown[..., None], frames, blended)


def tile_maps(
    maps: Tensor,
    colors: Tensor,
    columns: int,
    pad_y: int = 2,
    pad_x: int = 2,
    scale: int = 1,
    limits: Tensor | None = None,
    background: int = 255,
) -> Tensor:
    """``maps`` ``[M, h, w]`` side by side in one uint8 picture, each coloured by the table ``colors`` (uint8 ``[256, 3]``).

    A map's least finite value gets the table's first colour, its greatest the last one; with ``limits`` (``[2]``) all maps
    share these ends. The row of the table is rounded to nearest, halves up; NaN shows the ``background``, a grey. Each
    value becomes ``scale`` x ``scale`` pixels, and gaps of ``pad_y`` rows and ``pad_x`` columns surround every tile.
    """
    M, h, w = maps.shape
    values = maps.to(torch.float32)
    if limits is None:
        finite = values.isfinite()
        low = torch.where(finite, values, torch.inf).amin((1, 2), keepdim=True)
        high = torch.where(finite, values, -torch.inf).amax((1, 2), keepdim=True)
    else:
        low, high = limits.to(torch.float32)
    span = torch.as_tensor(high - low)
    shade = (values - low) * torch.where(span > 0, span.new_tensor(255) / span, 0)  # a division, as in the kernels
    shade = (torch.where(shade > 0, shade.clamp(max=255), 0) + 0.5).to(torch.int64)
    shade = torch.where(values.isnan(), 256, shade)
    table = torch.cat([colors, colors.new_full((1, 3), background)])
    rows = -(-M // columns)
    shade = F.pad(shade, (0, 0, 0, 0, 0, rows * columns - M), value=256)
    shade = shade.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    shade = F.pad(shade, (pad_x, 0, pad_y, 0), value=256)  # the gap above and to the left
    picture = shade.unflatten(0, (rows, columns)).transpose(1, 2)
    picture = picture.reshape(rows * (h * scale + pad_y), columns * (w * scale + pad_x))
    return table[F.pad(picture, (0, pad_x, 0, pad_y), value=256)]


def resize(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Linear, bilinear or trilinear resize of ``[..., *map]`` to ``size``: no antialiasing; half-pixel centres, or the
    first and last samples on each other with ``align_corners``."""
    rank = len(size)
    for axis, out in zip(range(maps.ndim - rank, maps.ndim), size, strict=True):
        length = maps.shape[axis]
        if length == out:
            continue
        low, high, weight = samples(length, out, align_corners, maps)
        weight = weight.reshape(-1, *(1,) * (maps.ndim - 1 - axis))
        maps = (1 - weight) * maps.index_select(axis, low) + weight * maps.index_select(axis, high)
    return maps


def samples(length: int, out: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where ``out`` samples lie along an axis of ``length`` positions: between which two, and the second one's weight ``[out]``.

    In whole numbers, so that the weight, of the dtype of ``like``, is all that is rounded. :func:`torch.nn.functional.interpolate`
    places samples in the maps' own precision: along 65,536 positions of fp32 they are off by up to a hundredth.
    """
    place = torch.arange(out, device=like.device)
    if align_corners:
        below = max(out - 1, 1)
        above = place * (length - 1)
    else:
        below = 2 * out
        above = ((2 * place + 1) * length - out).clamp(min=0)
    low = above // below
    dtype = like.dtype if like.element_size() >= 4 else torch.float32
    return low, (low + 1).clamp(max=length - 1), (above % below).to(dtype) / below


def triangles(length: int, out: int, start: float, end: float, device: torch.device | str = "cpu") -> Tensor:
    """Weights ``[out, length]`` of an antialiased linear resize of the interval from ``start`` to ``end`` of an axis."""
    step = (end - start) / out
    centres = start + (torch.arange(out, device=device, dtype=torch.float64) + 0.5) * step
    places = torch.arange(length, device=device, dtype=torch.float64) + 0.5
    weights = (1 - (places - centres[:, None]).abs() / max(step, 1.0)).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    inside = ((centres >= 0) & (centres <= length))[:, None]
    return torch.where(inside, weights / total, 0).to(torch.float32)


def min_max(maps: Tensor, rank: int = 2, eps: float = RANGE_EPS) -> Tensor:
    """Each map of ``[..., *map]`` shifted to start at 0 and divided by its range + eps; non-finite values make the map NaN.

    A constant map becomes zero, and so does its derivative.
    """
    dims = tuple(range(maps.ndim - rank, maps.ndim))
    maps = from_zero(maps, rank)
    top = maps.amax(dims, keepdim=True)
    # An infinite range would leave zeros beside NaN; the whole map is unknown, and says so.
    return torch.where(top.isfinite(), torch.where(top == 0, 0, maps / (eps + top)), torch.nan)


def from_zero(maps: Tensor, rank: int = 2) -> Tensor:
    """Each map of ``[..., *map]`` shifted to start at 0: a constant one stays constant, whatever is computed of it."""
    return maps - maps.amin(tuple(range(maps.ndim - rank, maps.ndim)), keepdim=True)


def positive(x: Tensor) -> Tensor:
    """max(x, 0); NaN stays, and minus infinity becomes NaN, so that nothing that is not finite is cut off without a trace."""
    return torch.where(x == -torch.inf, torch.nan, x.clamp(min=0))


def _signed(projection: Tensor) -> Tensor:
    """The entry of largest magnitude positive; of several equally large ones, within rounding, the first."""
    magnitude = projection.abs()
    first = int((magnitude >= (1 - SIGN_TIE) * magnitude.max()).nonzero()[0])
    return -projection if projection[first] < 0 else projection


def _accumulated(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype in which sums are taken: fp64 for fp64, fp32 for the rest."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return [t.to(dtype) for t in tensors]


def _per_target(A: Tensor, G: Tensor) -> Tensor:
    """Activations ``[N, C, *map]`` as they broadcast against gradients ``[N, (K,) C, *map]``."""
    return A if G.ndim == A.ndim else A.unsqueeze(1)


def _weighted_sum(A: Tensor, w: Tensor) -> Tensor:
    """Sum over channels of ``w`` ``[N, (K,) C]`` times ``A`` ``[N, C, *map]``: ``[N, (K,) *map]``."""
    return _channel_sum(w[(...,) + (None,) * (A.ndim - 2)] * (A if w.ndim == 2 else A.unsqueeze(1)), A)


def _channel_sum(terms: Tensor, A: Tensor) -> Tensor:
    return terms.sum(-(A.ndim - 1))


def _finish(maps: Tensor, size, normalize: bool, rank: int) -> Tensor:
    size = _full_size(size, maps.shape[maps.ndim - rank :])
    return resize_normalize(maps, size, normalize, relu=normalize)


def _full_size(size, own: Sequence[int]) -> tuple[int, ...]:
    if size is None:
        return tuple(own)
    if isinstance(size, int):
        return (size,) * len(own)
    return tuple(size)
