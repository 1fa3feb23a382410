"""The fused ops: typed wrappers around ``torch.ops.camfast.*``.

Each checks its arguments (``ValueError`` and ``TypeError``, in one sentence) and calls its op; the dispatcher chooses the
CPU or the CUDA kernel. Every op has a plain-PyTorch twin of the same name in :mod:`camfast.reference`, which fixes its
meaning, including NaN and Inf, and serves devices without kernels. All work under ``torch.compile``, ``torch.export``,
CUDA graphs and autocast, take fp64, fp32, fp16 and bf16, contiguous, channels_last and strided tensors, and are
differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import registration  # noqa: F401  (fakes, gradients and the fallback of every op)
from .colormaps import table
from .libraries import build_info

__all__ = [
    "build_info",
    "cam",
    "eigen_cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plus_plus",
    "hires_cam",
    "kpca_cam",
    "layer_cam",
    "mask_images",
    "overlay",
    "preprocess",
    "resize_normalize",
    "tile_maps",
    "xgrad_cam",
]

Size = int | Sequence[int] | None

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def cam(activations: Tensor, weights: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Class activation map: the sum of the channels, weighted as given (Zhou 2016, eq. 2).

    Args:
        activations: ``[N, C, *map]``, a map of one, two or three dimensions.
        weights: ``[N, C]``, or ``[N, K, C]`` for K maps an image.
        size: the heatmap's size, an int for all dimensions, or None for the map's own.
        normalize: ReLU, min-max, resize, min-max; False resizes the raw, signed map.

    Returns:
        ``[N, *size]`` or ``[N, K, *size]``, float32 (float64 for fp64 inputs), in [0, 1] when normalised.

    Raises:
        ValueError: shapes or sizes that do not fit. TypeError: dtypes that are not floating.
    """
    return _cam_op(torch.ops.camfast.cam.default, activations, weights, "weights", size, normalize)


def grad_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju 2017, eq. 1 and 2).

    ``gradients`` is ``[N, C, *map]``, or ``[N, K, C, *map]`` for K targets an image; the rest as in :func:`cam`.
    """
    return _cam_op(torch.ops.camfast.grad_cam.default, activations, gradients, "gradients", size, normalize)


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Grad-CAM++: channels weighted by positive gradients and their higher powers (Chattopadhay 2018, eq. 19).

    Arguments as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.grad_cam_plus_plus.default, activations, gradients, "gradients", size, normalize)


def xgrad_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """XGrad-CAM: gradients weighted by their share of the channel's activation (Fu 2020, eq. 8).

    Arguments as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.xgrad_cam.default, activations, gradients, "gradients", size, normalize)


def hires_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """HiResCAM: gradient times activation, element by element, summed over channels (Draelos 2020, eq. 3).

    Arguments as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.hires_cam.default, activations, gradients, "gradients", size, normalize)


def layer_cam(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """LayerCAM: positive gradient times activation, summed over channels (Jiang 2021, eq. 6 and 7).

    Arguments as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.layer_cam.default, activations, gradients, "gradients", size, normalize)


def grad_cam_elementwise(activations: Tensor, gradients: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Element-wise Grad-CAM: the positive part of gradient times activation, summed over channels.

    Arguments as in :func:`grad_cam`.
    """
    return _cam_op(torch.ops.camfast.grad_cam_elementwise.default, activations, gradients, "gradients", size, normalize)


def eigen_cam(activations: Tensor, size: Size = None, normalize: bool = True) -> Tensor:
    """Eigen-CAM: positions, centred, on their first principal component (Muhammad 2020, https://arxiv.org/abs/2008.00299).

    The component is the largest eigenvector of the Gram matrix over positions or over channels, whichever is smaller,
    in fp64: a 7 x 7 map of 2048 channels needs a 49 x 49 matrix instead of a decomposition with 2048 vectors. Its sign
    is arbitrary: here the entry of largest magnitude is positive. Differentiable where the two largest eigenvalues differ.

    Args:
        activations: ``[N, C, *map]``, a map of one to three dimensions. NaN counts as 0; an image with Inf gets NaN.
        size, normalize: as in :func:`cam`.

    Returns:
        ``[N, *size]``, float32 (float64 for fp64), in [0, 1] when normalised.

    Raises:
        ValueError: a shape or size that does not fit. TypeError: a dtype that is not floating.
    """
    size = _eigen_arguments(activations, size)
    return _call(torch.ops.camfast.eigen_cam.default, activations, size, normalize)


def kpca_cam(activations: Tensor, size: Size = None, normalize: bool = True, gamma: float | None = None) -> Tensor:
    """KPCA-CAM: the first component of a kernel PCA with a sigmoid kernel (Karmani 2024, https://arxiv.org/abs/2410.00267).

    ``gamma`` scales the products in ``tanh(gamma * x.y + 1)``; None takes 1 / C. The rest as in :func:`eigen_cam`.
    """
    size = _eigen_arguments(activations, size)
    if gamma is not None and not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number or None, got {gamma!r}")
    return _call(torch.ops.camfast.kpca_cam.default, activations, size, normalize, gamma)


def resize_normalize(maps: Tensor, size: Size = None, normalize: bool = True, relu: bool = False) -> Tensor:
    """Min-max, linear resize and min-max of ``maps`` ``[..., *map]``, each map by itself.

    Args:
        maps: floating, any number of leading dimensions.
        size: the output's size; a sequence's length says how many last dimensions belong to a map (1 to 3); an int or
            None: two.
        normalize: False only resizes. relu: cut negative values off first.

    Returns:
        ``[..., *size]``, float32 (float64 for fp64), in [0, 1] when normalised.
    """
    _check_floating(maps, "maps")
    rank = len(size) if isinstance(size, Sequence) else 2
    if maps.ndim < rank:
        raise ValueError(f"maps must have at least the {rank} dimensions of a map, got shape {list(maps.shape)}")
    own = maps.shape[maps.ndim - rank :]
    size = _full_size(size, own)
    lead = maps.shape[: maps.ndim - rank]
    if len(lead) == 1:
        return _call(torch.ops.camfast.resize_normalize.default, maps, size, normalize, relu)
    flat = _call(torch.ops.camfast.resize_normalize.default, maps.reshape(lead.numel(), *own), size, normalize, relu)
    return flat.reshape(*lead, *(own if size is None else size))


def mask_images(images: Tensor, maps: Tensor, align_corners: bool = True, scale_first: bool = False) -> Tensor:
    """Score-CAM's inputs: each image times each of its maps, resized to it and scaled to [0, 1], in one pass (Wang 2020, eq. 3).

    Nothing of the images' size is made but the result. ``align_corners=True`` is pytorch-grad-cam's way; torchcam's is
    ``align_corners=False, scale_first=True``.

    Args:
        images: floating ``[N, P, *size]``, P planes of one to three dimensions.
        maps: floating ``[N, C, *map]``.
        align_corners: resize so that the first and last samples of map and image lie on each other.
        scale_first: scale by the range of the map itself, not of the resized one.

    Returns:
        ``[N * C, P, *size]``, the masks of an image one after the other, in the dtype and the memory format of
        ``images``. Products are taken in fp32 (fp64 for fp64). A map that is not finite makes its image NaN.

    Raises:
        ValueError: shapes or devices that do not fit. TypeError: dtypes that are not floating.
    """
    _check_floating(images, "images")
    _check_floating(maps, "maps")
    if not 3 <= images.ndim <= 5 or images.ndim != maps.ndim or images.shape[0] != maps.shape[0]:
        raise ValueError(
            f"images [N, P, *size] and maps [N, C, *map] must have as many images and 1 to 3 dimensions, "
            f"got {list(images.shape)} and {list(maps.shape)}"
        )
    if 0 in images.shape[2:] or 0 in maps.shape[2:]:
        raise ValueError(f"images and maps must not be empty, got {list(images.shape)} and {list(maps.shape)}")
    if images.device != maps.device:
        raise ValueError(f"images and maps must be on one device, got {images.device} and {maps.device}")
    maps = maps.to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    return _call(torch.ops.camfast.mask_images.default, images, maps, align_corners, scale_first)


def overlay(frames: Tensor, heatmap: Tensor, colormap: str | Tensor = "jet", alpha: float = 0.5) -> Tensor:
    """``heatmap`` in colour over ``frames``: resized to them, looked up and blended in one pass.

    Args:
        frames: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB.
        heatmap: floating ``[N, h, w]`` or ``[h, w]`` in [0, 1], of any size; NaN leaves the frame as it is.
        colormap: a name of :func:`camfast.colormaps.names`, a matplotlib name, or a uint8 table ``[256, 3]``.
        alpha: the heat's share, 0 to 1.

    Returns:
        uint8, the shape of ``frames``: ``(1 - alpha) * frame + alpha * colour``.

    Raises:
        ValueError: shapes that do not fit, an unknown colormap, alpha out of range. TypeError: other dtypes.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        raise TypeError(f"frames must be a uint8 tensor, got {_kind(frames)}")
    _check_floating(heatmap, "heatmap")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        raise ValueError(f"frames must have shape [N, H, W, 3] or [H, W, 3], got {list(frames.shape)}")
    if heatmap.shape[:-2] != frames.shape[:-3] or heatmap.ndim != frames.ndim - 1:
        raise ValueError(
            f"heatmap must be [N, h, w] with one map a frame {list(frames.shape)}, got {list(heatmap.shape)}"
        )
    if heatmap.device != frames.device:
        raise ValueError(f"frames and heatmap must be on one device, got {frames.device} and {heatmap.device}")
    if 0 in heatmap.shape[-2:]:
        raise ValueError(f"heatmap must not be empty, got {list(heatmap.shape)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    colors = table(colormap, frames.device)
    heatmap = heatmap.float()
    if frames.ndim == 3:
        return torch.ops.camfast.overlay(frames[None], heatmap[None], colors, alpha)[0]
    return torch.ops.camfast.overlay(frames, heatmap, colors, alpha)


def preprocess(
    frames: Tensor,
    size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    *,
    box: Sequence[float] | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Frames as a network's input: resized with antialiasing, scaled, normalised and laid out in one pass.

    Args:
        frames: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]``, RGB.
        size: the input's size, an int or ``(height, width)``.
        mean, std: three numbers each, for values in [0, 1].
        dtype: float32, float16 or bfloat16.
        box: ``(left, top, right, bottom)``, the part of the frame that becomes the input, in pixels (edges, not
            centres), as a resize followed by a cut chooses it; what lies beyond the frame is black. None: the whole.
        channels_last: the result's memory layout; False is contiguous.

    Returns:
        ``[N, 3, height, width]`` (``[3, height, width]`` for one frame): torchvision's antialiased bilinear resize,
        without its rounding to whole levels in between.

    Raises:
        ValueError: shapes, numbers or a box that do not fit. TypeError: other dtypes.
    """
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        raise TypeError(f"frames must be a uint8 tensor, got {_kind(frames)}")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape[-3:]:
        raise ValueError(f"frames must have shape [N, H, W, 3] or [H, W, 3], got {list(frames.shape)}")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
    full = _full_size(size, frames.shape[-3:-1])
    mean, std = [float(m) for m in mean], [float(s) for s in std]
    if len(mean) != 3 or len(std) != 3 or 0.0 in std:
        raise ValueError(f"mean and std must be three numbers each, std not 0, got {mean} and {std}")
    if box is not None:
        box = [float(edge) for edge in box]
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"box must be (left, top, right, bottom) and not empty, got {box}")
    batch = frames if frames.ndim == 4 else frames[None]
    images = torch.ops.camfast.preprocess(batch, full, mean, std, dtype, box, channels_last)
    return images if frames.ndim == 4 else images[0]


def tile_maps(
    maps: Tensor,
    columns: int | None = None,
    pad: int | tuple[int, int] = 2,
    colormap: str | Tensor = "gray",
    limits: tuple[float, float] | Tensor | None = None,
    scale: int = 1,
    background: int = 255,
) -> Tensor:
    """Maps side by side in one picture: each map's range, its colours and its place, in one pass.

    Args:
        maps: floating ``[M, h, w]``.
        columns: tiles a row; None makes as many rows as columns.
        pad: the gap around every tile, in pixels, or ``(between rows, between columns)``.
        colormap: as in :func:`overlay`.
        limits: ``(low, high)`` for all maps, or a tensor of these two; None: each map's least and greatest finite value.
        scale: pixels a value, in both directions.
        background: the grey of the gaps, 0 to 255; NaN shows it too.

    Returns:
        uint8 ``[rows * (h * scale + pad) + pad, columns * (w * scale + pad) + pad, 3]``, RGB.

    Raises:
        ValueError: shapes, numbers or an unknown colormap that do not fit. TypeError: other dtypes.
    """
    _check_floating(maps, "maps")
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must have shape [M, h, w] and not be empty, got {list(maps.shape)}")
    if columns is None:
        columns = math.isqrt(maps.shape[0] - 1) + 1
    pad_y, pad_x = (pad, pad) if isinstance(pad, int) else pad
    if columns < 1 or scale < 1 or pad_y < 0 or pad_x < 0:
        raise ValueError(f"columns and scale must be positive and pad not negative, got {columns}, {scale} and {pad}")
    if not 0 <= background <= 255:
        raise ValueError(f"background must be between 0 and 255, got {background}")
    if limits is not None and not isinstance(limits, Tensor):
        limits = torch.tensor(limits, dtype=torch.float32, device=maps.device)
    if limits is not None:
        if limits.shape != (2,):
            raise ValueError(f"limits must be two numbers, low and high, got shape {list(limits.shape)}")
        limits = limits.detach().to(maps.device, torch.float32)
    maps = maps.detach()
    if maps.dtype == torch.float64:
        maps = maps.float()
    colors = table(colormap, maps.device)
    return torch.ops.camfast.tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background)


def _eigen_arguments(activations: Tensor, size: Size) -> list[int] | None:
    """Checks the activations of the component ops; the size in full."""
    _check_floating(activations, "activations")
    shape = activations.shape
    if not 3 <= len(shape) <= 5 or 0 in shape[1:]:
        raise ValueError(
            f"activations must have shape [N, C, *map] with channels and 1 to 3 map dimensions, got {list(shape)}"
        )
    return _full_size(size, shape[2:])


def _cam_op(op, activations: Tensor, second: Tensor, name: str, size: Size, normalize: bool) -> Tensor:
    """Checks what all ops of the family share, then calls ``op``."""
    _check_floating(activations, "activations")
    _check_floating(second, name)
    shape, other = activations.shape, second.shape
    rank = len(shape) - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"activations must have shape [N, C, *map] with 1 to 3 map dimensions, got {list(shape)}")
    expected = shape[:2] if name == "weights" else shape
    if other != expected and (len(other) != len(expected) + 1 or other[0] != shape[0] or other[2:] != expected[1:]):
        with_targets = [*expected[:1], "K", *expected[1:]]
        raise ValueError(
            f"{name} must have shape {list(expected)} or {with_targets} to fit activations {list(shape)}, got {list(other)}"
        )
    if 0 in shape[2:]:
        raise ValueError(f"activations must have at least one position, got shape {list(shape)}")
    if activations.device != second.device:
        raise ValueError(f"activations and {name} must be on one device, got {activations.device} and {second.device}")
    if activations.dtype != second.dtype:  # autocast leaves a mix behind
        dtype = torch.promote_types(activations.dtype, second.dtype)
        activations, second = activations.to(dtype), second.to(dtype)
    if size is not None:
        size = _full_size(size, shape[2:])
    return _call(op, activations, second, size, normalize)


def _call(op, *args):
    """``op(*args)``; where no gradient can be asked for, past the autograd key, whose Python kernel costs microseconds."""
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
    ):
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def _check_floating(tensor: object, name: str) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype not in _FLOATING:
        raise TypeError(f"{name} must be a float64, float32, float16 or bfloat16 tensor, got {_kind(tensor)}")


def _full_size(size: Size, own: Sequence[int]) -> list[int] | None:
    """The size with one number for each dimension of the map; None stays None."""
    if size is None:
        return None
    full = [size] * len(own) if isinstance(size, (int, torch.SymInt)) else list(size)
    if len(full) != len(own):
        raise ValueError(f"size must be an int or {len(own)} numbers for maps {list(own)}, got {size}")
    for n in full:
        if not isinstance(n, (int, torch.SymInt)) or isinstance(n, bool):
            raise TypeError(f"size must be made of ints, got {size!r}")
        if n < 1:
            raise ValueError(f"size must be positive, got {size}")
    return full


def _kind(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
