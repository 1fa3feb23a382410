"""Score-CAM's inputs: images multiplied by their maps."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .arguments import check_floating
from .reference import MASK_EPS
from .registration import call, register
from .resize_normalize import min_max_backward, resize_backward

__all__ = ["mask_images"]


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
        ValueError: shapes or devices that do not fit.
        TypeError: dtypes that are not floating.
    """
    check_floating(images, "images")
    check_floating(maps, "maps")
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
    return call(torch.ops.camfast.mask_images.default, images, maps, align_corners, scale_first)


def _fake(images, maps, align_corners=True, scale_first=False):
    out = images.new_empty((maps.shape[0] * maps.shape[1], *images.shape[1:]))
    return out.contiguous(memory_format=_image_format(images))


def _fallback(images, maps, align_corners=True, scale_first=False):
    out = reference.mask_images(images, maps, align_corners, scale_first)
    return out.contiguous(memory_format=_image_format(images))


def _image_format(images: Tensor) -> torch.memory_format:
    """channels_last for images that are, else contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(images.ndim)
    if images.is_contiguous() or last is None or not images.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _save(ctx, inputs, output) -> None:
    images, maps, ctx.align_corners, ctx.scale_first = inputs
    ctx.save_for_backward(images, maps)


def _backward(ctx, grad: Tensor):
    """The backward of ``camfast::mask_images``."""
    images, maps = ctx.saved_tensors
    rank, size, own = images.ndim - 2, images.shape[2:], maps.shape[2:]
    grad = grad.to(maps.dtype).unflatten(0, maps.shape[:2])  # [N, C, P, *size]
    masks = reference.score_masks(maps, size, ctx.align_corners, ctx.scale_first)
    grad_images = (grad * masks.unsqueeze(2)).sum(1).to(images.dtype)
    grad_maps = (grad * images.to(maps.dtype).unsqueeze(1)).sum(2)
    if ctx.scale_first:
        grad_maps = resize_backward(grad_maps, own, size, ctx.align_corners)
        grad_maps = min_max_backward(grad_maps, maps, rank, MASK_EPS)
    else:
        large = reference.resize(reference.from_zero(maps, rank), size, ctx.align_corners)
        grad_maps = min_max_backward(grad_maps, large, rank, MASK_EPS)
        grad_maps = resize_backward(grad_maps, own, size, ctx.align_corners)
    return grad_images, grad_maps, None, None


register("mask_images", _fake, _fallback, _backward, _save)
