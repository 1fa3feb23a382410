"""What the dispatcher must know of each op besides its CPU and CUDA kernels: fake, fallback and gradient."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import derivatives, libraries, reference

FAMILY = (
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "grad_cam_elementwise",
)

_warned_devices: set[str] = set()


def _warn_once(device: torch.device) -> None:
    if device.type in _warned_devices:
        return
    _warned_devices.add(device.type)
    reason = libraries.cuda_problem if device.type == "cuda" else f"camfast has no kernels for {device.type}"
    warnings.warn(f"{reason}; the slower plain-PyTorch reference runs instead", stacklevel=4)


def _result_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _family_fake(name: str):
    plain = 2 if name == "cam" else None  # dimensions of `second` without K

    def fake(activations, second, size=None, normalize=True):
        has_targets = second.ndim == (plain or activations.ndim) + 1
        lead = second.shape[:2] if has_targets else second.shape[:1]
        own = activations.shape[2:]
        return activations.new_empty((*lead, *(own if size is None else size)), dtype=_result_dtype(activations))

    return fake


def _family_fallback(name: str):
    rule = getattr(reference, name)

    def fallback(activations, second, size=None, normalize=True):
        _warn_once(activations.device)
        return rule(activations, second, size, normalize).contiguous()

    return fallback


def _eigen_fake(activations, size=None, normalize=True, gamma=None):
    own = activations.shape[2:] if size is None else size
    return activations.new_empty((activations.shape[0], *own), dtype=_result_dtype(activations))


def _eigen_fallback(name: str):
    rule = getattr(reference, name)

    def fallback(activations, size=None, normalize=True, *gamma):
        _warn_once(activations.device)
        return rule(activations, size, normalize, *gamma).contiguous()

    return fallback


def _resize_fake(maps, size=None, normalize=True, relu=False):
    return maps.new_empty((maps.shape[0], *(maps.shape[1:] if size is None else size)), dtype=_result_dtype(maps))


def _resize_fallback(maps, size=None, normalize=True, relu=False):
    _warn_once(maps.device)
    result = reference.resize_normalize(maps, list(maps.shape[1:]) if size is None else size, normalize, relu)
    return result.contiguous() if result is not maps else maps.clone()


def _preprocess_fake(frames, size, mean, std, dtype=torch.float32, box=None, channels_last=False):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(frames.shape[0], 3, *size, dtype=dtype, device=frames.device, memory_format=layout)


def _preprocess_fallback(frames, size, mean, std, dtype=torch.float32, box=None, channels_last=False):
    _warn_once(frames.device)
    return reference.preprocess(frames, size, mean, std, dtype, box, channels_last)


def _mask_fake(images, maps, align_corners=True, scale_first=False):
    out = images.new_empty((maps.shape[0] * maps.shape[1], *images.shape[1:]))
    return out.contiguous(memory_format=_image_format(images))


def _mask_fallback(images, maps, align_corners=True, scale_first=False):
    _warn_once(images.device)
    out = reference.mask_images(images, maps, align_corners, scale_first)
    return out.contiguous(memory_format=_image_format(images))


def _image_format(images: Tensor) -> torch.memory_format:
    """channels_last for images that are, else contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(images.ndim)
    if images.is_contiguous() or last is None or not images.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _overlay_fake(frames, heatmap, colors, alpha=0.5):
    return frames.new_empty(frames.shape)


def _overlay_fallback(frames, heatmap, colors, alpha=0.5):
    _warn_once(frames.device)
    return reference.overlay(frames, heatmap, colors, alpha).contiguous()


def _register(name, fake, fallback, backward=None, setup_context=None) -> None:
    qualified = f"camfast::{name}"
    torch.library.register_fake(qualified, fake)
    # Backends with kernels of their own override this; the rest (MPS, XPU, CUDA without its library) come here.
    torch.library.impl(qualified, "CompositeExplicitAutograd")(fallback)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context)


def _tile_fake(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    M, h, w = maps.shape
    rows = (M + columns - 1) // columns
    return colors.new_empty((rows * (h * scale + pad_y) + pad_y, columns * (w * scale + pad_x) + pad_x, 3))


def _tile_fallback(maps, colors, columns, pad_y=2, pad_x=2, scale=1, limits=None, background=255):
    _warn_once(maps.device)
    return reference.tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background).contiguous()


for _name in FAMILY:
    _register(
        _name, _family_fake(_name), _family_fallback(_name), derivatives.family_backward(_name), derivatives.save_family
    )
for _name in ("eigen_cam", "kpca_cam"):
    _register(_name, _eigen_fake, _eigen_fallback(_name), derivatives.eigen_backward(_name), derivatives.save_eigen)
_register("resize_normalize", _resize_fake, _resize_fallback, derivatives.resize_backward, derivatives.save_resize)
_register("preprocess", _preprocess_fake, _preprocess_fallback)
_register("mask_images", _mask_fake, _mask_fallback, derivatives.masks_backward, derivatives.save_masks)
_register("overlay", _overlay_fake, _overlay_fallback)
_register("tile_maps", _tile_fake, _tile_fallback)
