"""The fused ops: typed functions around ``torch.ops.camfast.*``, the floor on which everything else stands.

Each checks its arguments (``ValueError`` and ``TypeError``, in one sentence) and calls its op; the dispatcher chooses the
CPU or the CUDA kernel. An op's file here holds what Python adds to its kernels in ``csrc/``, which bear the same name: the
public function, the fake, the fallback and the derivative. Its twin in :mod:`camfast.ops.reference` (public as
``camfast.reference``), in plain PyTorch, fixes its meaning, including NaN and Inf, and serves devices without kernels.

All work under ``torch.compile``, ``torch.export``, CUDA graphs and autocast, and take fp64, fp32, fp16 and bf16,
contiguous, channels_last and strided tensors. Heatmaps and masked images are differentiable; a backward recomputes the raw
low-resolution map, which is small, rather than keeping anything of the forward but its inputs.
"""

from __future__ import annotations

from .cam import cam, grad_cam, grad_cam_elementwise, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam
from .eigen_cam import eigen_cam, kpca_cam
from .libraries import build_info
from .linear_imputation import linear_imputation
from .mask_images import mask_images
from .overlay import overlay
from .preprocess import preprocess
from .resize_normalize import resize_normalize
from .tile_maps import tile_maps

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
    "linear_imputation",
    "mask_images",
    "overlay",
    "preprocess",
    "resize_normalize",
    "tile_maps",
    "xgrad_cam",
]
