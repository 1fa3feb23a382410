"""The cases of the op benchmarks: which op, on which tensors, to which size; and their inputs, from a fixed seed.

Activations are the positive part of normal noise, as after a ReLU; gradients are normal noise. Never zeros: they hide
unwritten outputs, and can run faster than data.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from report import GRADIENT_OPS
from torch import Tensor

__all__ = ["EIGEN_OPS", "PLANES", "OpCase", "cpu_cases", "cuda_cases", "quick"]

EIGEN_OPS = ("eigen_cam", "kpca_cam")
PLANES = 3  # of the images that are masked
_SHORT = {"float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class OpCase:
    """One op on one set of shapes.

    ``shape`` is ``[N, C, *map]`` of the activations; for ``resize_normalize`` ``[N, *map]`` of the maps; for
    ``overlay`` ``[N, *map]`` of the heatmap, and ``size`` is the frames' height and width; for ``mask_images``
    ``[N, C, *map]`` of the masks, and ``size`` is that of the images of three planes. ``targets`` is K, the
    targets an image.
    ``layout`` is ``contiguous``, ``channels_last`` or, for several targets, ``batched``: gradients as one batched
    backward leaves them, ``[K, N, C, *map]`` in memory.
    """

    op: str
    shape: tuple[int, ...]
    size: tuple[int, ...]
    targets: int = 1
    dtype: str = "float32"
    layout: str = "contiguous"

    @property
    def label(self) -> str:
        extra = [f"K={self.targets}"] if self.targets > 1 else []
        extra += [_SHORT[self.dtype]] if self.dtype != "float32" else []
        extra += [self.layout] if self.layout != "contiguous" else []
        return " ".join([self.op, str(list(self.shape)).replace(" ", ""), "to", "x".join(map(str, self.size)), *extra])

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What follows the tensors in the op's call."""
        return () if self.op in ("overlay", "mask_images") else (self.size,)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def describe(self) -> dict[str, Any]:
        return {"label": self.label, **asdict(self)}

    def inputs(self, device: str = "cpu", seed: int = 0) -> tuple[Tensor, ...]:
        """The op's tensors; another seed gives other values of the same kind."""
        generator = torch.Generator(device).manual_seed(seed)
        kind: dict[str, Any] = {"generator": generator, "device": device}
        if self.op == "overlay":
            frames = torch.randint(0, 256, (self.shape[0], *self.size, 3), dtype=torch.uint8, **kind)
            return frames, torch.rand(self.shape, **kind)
        if self.op == "resize_normalize":
            return (torch.randn(self.shape, **kind).to(self.torch_dtype),)
        if self.op == "mask_images":
            images = torch.randn((self.shape[0], PLANES, *self.size), **kind).to(self.torch_dtype)
            return self._laid_out(images), torch.randn(self.shape, **kind).relu_().to(self.torch_dtype)
        n, c, *grid = self.shape
        A = self._laid_out(torch.randn(self.shape, **kind).relu_().to(self.torch_dtype))
        if self.op in EIGEN_OPS:  # one direction stands out, as in the activations of photographs
            along = torch.linspace(-1, 2, grid[-1], device=device) * torch.rand((c, *(1,) * len(grid)), **kind)
            return (self._laid_out((A.float() + along).clamp(min=0).to(self.torch_dtype)),)
        if self.op == "cam":
            shape = (n, c) if self.targets == 1 else (n, self.targets, c)
            return A, torch.randn(shape, **kind).to(self.torch_dtype)
        if self.targets == 1:
            return A, self._laid_out(torch.randn(self.shape, **kind).to(self.torch_dtype))
        if self.layout == "batched":
            G = torch.randn((self.targets, n, c, *grid), **kind).to(self.torch_dtype)
            return A, G.transpose(0, 1)
        G = torch.randn((n * self.targets, c, *grid), **kind).to(self.torch_dtype)
        return A, self._laid_out(G).unflatten(0, (n, self.targets))

    def _laid_out(self, x: Tensor) -> Tensor:
        if self.layout != "channels_last":
            return x
        return x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)

    @property
    def bytes_in(self) -> int:
        item = self.torch_dtype.itemsize
        if self.op == "overlay":
            return self.bytes_out + 4 * math.prod(self.shape)
        if self.op == "mask_images":
            return item * (math.prod(self.shape) + self.shape[0] * PLANES * math.prod(self.size))
        if self.op in ("resize_normalize", *EIGEN_OPS):
            return item * math.prod(self.shape)
        weights = self.targets * (math.prod(self.shape[:2]) if self.op == "cam" else math.prod(self.shape))
        return item * (math.prod(self.shape) + weights)

    @property
    def bytes_out(self) -> int:
        if self.op == "overlay":
            return self.shape[0] * math.prod(self.size) * 3
        if self.op == "mask_images":
            return self.torch_dtype.itemsize * math.prod(self.shape[:2]) * PLANES * math.prod(self.size)
        return self.shape[0] * self.targets * math.prod(self.size) * (8 if self.dtype == "float64" else 4)

    @property
    def bytes_moved(self) -> int:
        """The fewest bytes the op must move: each input read once, each output written once."""
        return self.bytes_in + self.bytes_out


SQUARE = (224, 224)
LAST, VIT, WIDE, EARLY = (1, 2048, 7, 7), (1, 512, 14, 14), (8, 2048, 7, 7), (8, 256, 56, 56)
BIG, BIG_EARLY = (256, 2048, 7, 7), (64, 256, 56, 56)  # 200 and 400 MB


def cpu_cases() -> list[OpCase]:
    """The shapes a processor meets: one image and a batch of 8, late and early layers."""
    main = [OpCase("grad_cam", shape, SQUARE) for shape in (LAST, VIT, WIDE, EARLY)]
    layouts = [
        OpCase("grad_cam", LAST, SQUARE, targets=5),
        OpCase("grad_cam", WIDE, SQUARE, targets=5),
        OpCase("grad_cam", WIDE, SQUARE, targets=5, layout="batched"),
        OpCase("grad_cam", WIDE, SQUARE, layout="channels_last"),
        OpCase("grad_cam", EARLY, SQUARE, layout="channels_last"),
        OpCase("grad_cam", WIDE, SQUARE, dtype="bfloat16"),
        OpCase("grad_cam", EARLY, SQUARE, dtype="bfloat16"),
        OpCase("grad_cam", (1, 256, 8, 14, 14), (32, 112, 112)),
    ]
    others = [OpCase(op, shape, SQUARE) for op in ("cam", *GRADIENT_OPS[1:]) for shape in (LAST, EARLY)]
    rest = [
        OpCase("cam", WIDE, (7, 7), targets=1000),
        OpCase("resize_normalize", (1, 7, 7), SQUARE),
        OpCase("resize_normalize", (64, 14, 14), SQUARE),
        *(OpCase(op, shape, SQUARE) for op in EIGEN_OPS for shape in (LAST, (1, 768, 14, 14), (8, 512, 7, 7))),
        OpCase("eigen_cam", (1, 64, 56, 56), SQUARE),
        OpCase("mask_images", (1, 16, 7, 7), SQUARE),
        OpCase("mask_images", (1, 16, 7, 7), SQUARE, layout="channels_last"),
        OpCase("overlay", (1, 224, 224), SQUARE),
        OpCase("overlay", (1, 7, 7), (1080, 1920)),
        OpCase("overlay", (1, 224, 224), (1080, 1920)),
    ]
    return [*main, *layouts, *others, *rest]


def cuda_cases() -> list[OpCase]:
    """From one image, where the launch is the cost, to 200 MB and more, where the memory is."""
    small = [OpCase(op, LAST, SQUARE) for op in GRADIENT_OPS]
    large = [OpCase(op, shape, SQUARE) for op in GRADIENT_OPS for shape in (BIG, BIG_EARLY)]
    wide_types = [
        OpCase(op, shape, SQUARE, dtype=dtype, layout=layout)
        for op in GRADIENT_OPS
        for shape in ((512, 2048, 7, 7), (128, 256, 56, 56))
        for dtype, layout in (("bfloat16", "contiguous"), ("bfloat16", "channels_last"))
    ]
    last = [OpCase(op, shape, SQUARE, layout="channels_last") for op in GRADIENT_OPS for shape in (BIG, BIG_EARLY)]
    middle = [
        OpCase("grad_cam", (8, 2048, 7, 7), SQUARE),
        OpCase("grad_cam", (32, 2048, 7, 7), SQUARE),
        OpCase("grad_cam", (32, 2048, 7, 7), SQUARE, dtype="float16"),
        OpCase("grad_cam", VIT, SQUARE),
        OpCase("grad_cam", (1, 256, 56, 56), SQUARE),
        OpCase("grad_cam", LAST, SQUARE, targets=5),
        OpCase("grad_cam", (64, 2048, 7, 7), SQUARE, targets=5),
        OpCase("grad_cam", (8, 256, 16, 28, 28), (32, 112, 112)),
    ]
    rest = [
        OpCase("cam", LAST, SQUARE),
        OpCase("cam", (512, 2048, 7, 7), SQUARE),
        OpCase("cam", (32, 2048, 7, 7), (7, 7), targets=1000),
        OpCase("resize_normalize", (1, 7, 7), SQUARE),
        OpCase("resize_normalize", (1024, 14, 14), SQUARE),
        *(OpCase(op, shape, SQUARE) for op in EIGEN_OPS for shape in (LAST, (64, 2048, 7, 7), (1, 768, 14, 14))),
        OpCase("mask_images", (1, 64, 7, 7), SQUARE),
        OpCase("mask_images", (1, 512, 7, 7), SQUARE, dtype="float16"),
        OpCase("overlay", (1, 7, 7), (1080, 1920)),
        OpCase("overlay", (1, 224, 224), (1080, 1920)),
        OpCase("overlay", (1, 7, 7), (2160, 3840)),
        OpCase("overlay", (16, 7, 7), (1080, 1920)),
        OpCase("overlay", (8, 7, 7), (2160, 3840)),
    ]
    # What a run short of time must not lose comes first.
    return [*small, *large, *middle[:2], *rest, *wide_types, *last, *middle[2:]]


def quick(cases: list[OpCase]) -> list[OpCase]:
    """A handful that still has a small, a large, a K = 5, a bf16, a channels_last and an overlay case."""
    chosen: dict[Any, OpCase] = {}
    for case in cases:
        kind = (
            case.op in GRADIENT_OPS[1:],
            case.op == "overlay",
            case.op == "mask_images",
            case.op in EIGEN_OPS,
            case.targets > 1,
            case.dtype,
            case.layout,
        )
        large = case.bytes_moved > 20 << 20
        chosen.setdefault((*kind, large), case)
    return [c for c in chosen.values() if c.targets < 1000]
