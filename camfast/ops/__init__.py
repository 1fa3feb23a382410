"""The fused ops: the public functions, and the floor on which everything else stands.

Each op has a typed wrapper here, a kernel for the CPU and one for CUDA in ``csrc/``, and a twin of the same name in plain
PyTorch in :mod:`camfast.ops.reference` (public as ``camfast.reference``).
"""

from __future__ import annotations

from .wrappers import (
    build_info,
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    kpca_cam,
    layer_cam,
    mask_images,
    overlay,
    preprocess,
    resize_normalize,
    tile_maps,
    xgrad_cam,
)

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
