"""Runs every kernel in every variant on small tensors, and compares it with the reference.

    compute-sanitizer --tool memcheck python benchmarks/sanitizer_run.py
    python benchmarks/sanitizer_run.py --device cpu

Made to run under a checker of memory, which is slow: tensors are small, inputs reach the device by plain copies, and
nothing but the ops launches kernels. Types, layouts, numbers of targets and sizes are combined in full on a few shapes;
awkward shapes (one position, one channel, more positions than shared memory holds, one image, more images than
multiprocessors) follow in every type. Exit code 1 when anything differs from the reference.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from report import GRADIENT_OPS
from torch import Tensor

from camfast import ops
from camfast.ops import colormaps, reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "strided", "misaligned", "swapped", "expanded", "mixed")
OPS = ("cam", *GRADIENT_OPS)
EIGEN_OPS = ("eigen_cam", "kpca_cam")

Shapes = tuple[tuple[int, ...], tuple[int, ...] | None]

# [N, C, *map] to size. Few channels and many, odd counts (no 16-byte runs), one to three dimensions.
COMBINED: tuple[Shapes, ...] = (
    ((2, 9, 7, 7), (20, 17)),
    ((1, 333, 7, 7), (40, 33)),  # one image with work for several blocks, which exchange their sums
    ((3, 64, 5), (13,)),
    ((1, 16, 2, 3, 4), (3, 7, 8)),
)
AWKWARD: tuple[Shapes, ...] = (
    ((1, 1, 1, 1), (1, 1)),
    ((1, 5, 1, 1), (9, 4)),
    ((2, 3, 1, 8), (1, 3)),
    ((1, 2048, 7, 7), (224, 224)),  # one image: many blocks share it
    ((300, 8, 3, 3), (7, 7)),  # more images than multiprocessors: a block each
    ((37, 40, 4, 4), None),
    ((2, 33, 14, 14), (5, 6)),  # down
    ((1, 48, 56, 56), (56, 56)),
    ((1, 16, 28, 28), (9, 9)),  # a channel's values in the registers of a block, of 16 bytes or single
    ((1, 9, 35, 35), (9, 9)),
    ((1, 8, 47, 47), (3, 2000)),
    ((1, 3, 97, 61), (31, 200)),
    ((1, 4, 256, 256), (64, 64)),  # more positions than shared memory holds
    ((2, 2, 70001), (100,)),
    ((1, 7, 1, 9, 5), (4, 9, 20)),
    ((1, 4, 20, 30, 30), (10, 31, 9)),
    ((0, 4, 3, 3), (6, 6)),
)
# Rows that start anywhere in a unit of 16 bytes, and not; one block a map, and several.
PIPELINED = ("grad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
LARGE: tuple[Shapes, ...] = (((2, 9, 33, 33), (9, 9)), ((1, 40, 36, 32), (20, 20)))


@dataclass(frozen=True)
class Variant:
    op: str
    shape: tuple[int, ...]
    size: tuple[int, ...] | None
    dtype: torch.dtype
    layout: str = "contiguous"
    targets: int | None = None  # K; None: no such dimension
    normalize: bool = True
    relu: bool = False  # resize_normalize only
    pipeline: bool = False  # large maps: by the pipeline (csrc/cuda/cam_pipeline.cuh)

    def __str__(self) -> str:
        extra = f" K={self.targets}" if self.targets is not None else ""
        dtype = str(self.dtype).removeprefix("torch.")
        extra += " pipeline" if self.pipeline else ""
        return f"{self.op} {list(self.shape)} to {self.size} {dtype} {self.layout}{extra} normalize={self.normalize}"


def variants(quick: bool) -> Iterator[Variant]:
    """All that is run, in a fixed order; ``quick`` leaves out most combinations of layout and K."""
    for op, dtype, (shape, size) in itertools.product(PIPELINED, DTYPES, LARGE):
        yield Variant(op, shape, size, dtype, pipeline=True)
        yield Variant(op, shape, size, dtype, "misaligned", 3, pipeline=True)
    for op, dtype, (shape, size), layout, k in itertools.product(OPS, DTYPES, COMBINED, LAYOUTS, (None, 1, 3)):
        if quick and (k == 1 or (k == 3 and layout not in ("contiguous", "swapped")) or len(shape) != 4):
            continue
        yield Variant(op, shape, size, dtype, layout, k)
    for op, dtype, (shape, size) in itertools.product(OPS, DTYPES, AWKWARD):
        layout = "channels_last" if len(shape) == 4 else "misaligned"
        yield Variant(op, shape, size, dtype)
        yield Variant(op, shape, size, dtype, layout, normalize=False)
        if not quick and math.prod(shape) < 100_000:
            yield Variant(op, shape, size, dtype, targets=17)
    for dtype, (shape, size), layout in itertools.product(DTYPES, (*COMBINED, *AWKWARD), LAYOUTS[:5]):
        if size is not None and not (quick and layout != "contiguous"):
            yield Variant("resize_normalize", shape, size, dtype, layout)
            yield Variant("resize_normalize", shape, size, dtype, layout, relu=True)
            yield Variant("resize_normalize", shape, size, dtype, layout, normalize=False)

    for op, dtype, (shape, size) in itertools.product(EIGEN_OPS, DTYPES, EIGEN):
        for layout in LAYOUTS[: 2 if quick else 4]:
            yield Variant(op, shape, size, dtype, layout, normalize=layout != "strided")


# One launch, shared out over blocks and not; the path for large maps over positions, and over channels.
EIGEN: tuple[Shapes, ...] = (
    ((2, 9, 3, 3), (7, 5)),
    ((1, 1100, 7, 7), (40, 33)),
    ((300, 16, 2, 3), None),
    ((2, 100, 9, 9), (20, 20)),
    ((1, 70, 12, 13), (30, 31)),
    ((3, 6, 40), (11,)),
    ((1, 5, 3, 4, 5), (6, 5, 4)),
    ((0, 4, 3, 3), (6, 6)),
)
MASKS = [
    # images [N, P, *size], maps [N, C, *map]; planes that are and are not multiples of 16 bytes; a map beyond shared memory
    ((1, 3, 64, 48), (1, 20, 7, 7)),
    ((2, 3, 33, 37), (2, 4, 14, 5)),
    ((2, 1, 5, 130), (2, 3, 9, 9)),
    ((1, 2, 8, 8), (1, 2, 256, 256)),
    ((1, 3, 5, 6, 7), (1, 2, 2, 3, 3)),
    ((1, 3, 8, 8), (1, 0, 2, 2)),
]
OVERLAYS = [
    # frames [N, H, W, 3], heatmap [N, h, w]; widths that are and are not multiples of 16 pixels
    ((1, 48, 64), (7, 7)),
    ((2, 33, 37), (14, 5)),
    ((1, 1, 1), (1, 1)),
    ((3, 20, 17), (20, 17)),
    ((1, 5, 130), (90, 260)),
    ((1, 270, 480), (56, 56)),
    ((0, 8, 8), (2, 2)),
    ((1, 12, 40), (256, 256)),  # a heatmap larger than shared memory
]


# frames and the network's input: words and bytes, a reduction, an enlargement, a row wider than a strip
PREPROCESSED = [
    ((2, 45, 80), (12, 20)),
    ((1, 13, 37), (30, 90)),
    ((1, 4, 3000), (3, 2)),
    ((1, 1, 1), (2, 3)),
    ((0, 8, 8), (4, 4)),
]


def placed(x: Tensor, layout: str, device: str) -> Tensor:
    """``x`` on ``device`` with its memory laid out as named. Only copies touch the device, no kernels."""
    if layout in ("contiguous", "expanded", "mixed"):
        return x.contiguous().to(device)
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().to(device).movedim(-1, 1)
    if layout == "strided":
        return torch.stack([x, x + 1], -1).flatten(-2).contiguous().to(device)[..., ::2]
    if layout == "misaligned":
        return torch.cat([x.new_zeros(1), x.flatten()]).to(device)[1:].view(x.shape)
    if layout == "swapped":  # the first two dimensions lie the other way round, as after a batched backward
        return x.transpose(0, 1).contiguous().to(device).transpose(0, 1)
    raise ValueError(f"expected one of {', '.join(LAYOUTS)}, got {layout!r}")


def inputs(v: Variant, device: str, seed: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The op's tensors on the device, and the same values on the processor."""
    torch.manual_seed(seed)
    if v.op in EIGEN_OPS:  # one direction stands out, so that rounding does not decide which is the first
        A = torch.randn(v.shape) + torch.linspace(-2, 2, v.shape[-1]) * torch.rand(
            v.shape[1], *(1,) * (len(v.shape) - 2)
        )
        A = A.to(v.dtype)
        return (placed(A, v.layout, device),), (A,)
    if v.op == "resize_normalize":
        maps = torch.randn(v.shape).to(v.dtype)
        return (placed(maps, v.layout, device),), (maps,)
    A = (torch.randn(v.shape).relu_() + 0.05).to(v.dtype)
    n, c, *grid = v.shape
    lead = (n, c) if v.targets is None else (n, v.targets, c)
    G = torch.randn((*lead, *(grid if v.op != "cam" else ()))).to(v.dtype)
    layout_g = {"mixed": "channels_last"}.get(v.layout, v.layout)
    if v.op == "cam" and layout_g in ("channels_last", "strided"):
        layout_g = "misaligned"
    if layout_g == "expanded" and v.op != "cam":
        # What a pooling head leaves: one value a channel, repeated without being stored.
        first = G.flatten(len(lead))[..., :1].contiguous()
        rank = len(grid)
        on_device = first.to(device).view(*lead, *(1,) * rank).expand(*lead, *grid)
        return (A.to(device), on_device), (A, first.view(*lead, *(1,) * rank).expand(*lead, *grid))
    if layout_g == "channels_last" and v.targets is not None:
        memory = G.movedim(2, -1).contiguous().to(device).movedim(-1, 2)
        return (placed(A, v.layout, device), memory), (A, G)
    return (placed(A, v.layout, device), placed(G, layout_g, device)), (A, G)


def check(v: Variant, device: str, seed: int, poison: bool, compare: bool = True) -> float:
    """Runs one variant; its largest difference from the reference. NaN counts as infinite. Without ``compare``, 0."""
    os.environ["CAMFAST_PIPELINE"] = str(int(v.pipeline))
    on_device, on_host = inputs(v, device, seed)
    arguments = (v.size, v.normalize, *((v.relu,) if v.op == "resize_normalize" else ()))
    if not compare:
        getattr(ops, v.op)(*on_device, *arguments).cpu()
        return 0.0
    expected = getattr(reference, v.op)(*(t.double() for t in on_host), *arguments)
    if poison:
        # What the allocator hands out next holds NaN, so an element that is never written shows.
        torch.full(expected.shape, float("nan"), device=device, dtype=torch.float32)
    got = getattr(ops, v.op)(*on_device, *arguments).cpu()
    if got.shape != expected.shape:
        raise ValueError(f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    if got.numel() == 0:
        return 0.0
    # Raw maps are compared by their own magnitude.
    scale = 1.0 if v.normalize else max(1.0, float(expected.abs().max()))
    difference = float((got.double() - expected).abs().max()) / scale
    return difference if difference == difference else math.inf


def tolerance(v: Variant) -> float:
    """The largest difference rounding explains. All types but fp64 are computed in fp32."""
    if v.dtype == torch.float64:
        return 1e-9
    grid = v.shape[2:]
    # A sample's place on a long axis, and a sum over many positions, are no better than fp32 itself.
    return 1e-4 + torch.finfo(torch.float32).eps * (2 * max(grid) + math.prod(grid) / 8)


def check_masks(shape: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> float:
    """The largest difference of the masked images, in all ways to make masks, over what rounding of ``dtype`` explains."""
    torch.manual_seed(len(shape) + shape[0])
    images, maps = torch.randn(shape).to(dtype), torch.randn(grid)
    maps = maps.to(torch.promote_types(dtype, torch.float32))
    worst = 0.0
    for ways in itertools.product((False, True), repeat=2):
        expected = reference.mask_images(images.double(), maps.double(), *ways)
        got = ops.mask_images(placed(images, layout, device), maps.to(device), *ways).cpu().double()
        difference = float((got - expected).abs().max()) if got.numel() else 0.0
        worst = max(worst, difference if difference == difference else math.inf)
    return worst / (8 * torch.finfo(dtype).eps + (1e-4 if dtype != torch.float64 else 1e-10))


def check_overlay(frame: tuple[int, int, int], grid: tuple[int, int], device: str, offset: int, seed: int) -> float:
    """The overlay's largest difference in levels; ``offset`` bytes move the frames off their alignment."""
    torch.manual_seed(seed)
    n, h, w = frame
    frames = torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8)
    heat = torch.rand(n, *grid)
    if heat.numel():
        heat[0, 0, 0] = float("nan")
    moved = torch.cat([torch.zeros(offset, dtype=torch.uint8), frames.flatten()]).to(device)[offset:].view(frames.shape)
    got = ops.overlay(moved, heat.to(device), "jet", 0.4).cpu()
    expected = reference.overlay(frames, heat, colormaps.table("jet"), 0.4)
    if not got.numel():
        return 0.0
    apart = (got.int() - expected.int()).abs()
    # A value on the edge between two colours may fall to either side: rare, and one step of the table at most.
    rare = float((apart > 1).float().mean())
    return float(apart.max()) if rare > 1e-3 or apart.max() > 4 else 0.0


def check_preprocess(
    frame: tuple[int, int, int],
    size: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
    device: str,
    offset: int,
) -> float:
    """The largest difference of a network's input; ``offset`` bytes move the frames off their alignment."""
    torch.manual_seed(offset)
    frames = torch.randint(0, 256, (*frame, 3), dtype=torch.uint8)
    moved = torch.cat([torch.zeros(offset, dtype=torch.uint8), frames.flatten()]).to(device)[offset:].view(frames.shape)
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.5, 1.0)
    box = (-1.5, 0.25, frame[2] - 0.5, frame[1] + 2.0)
    got = ops.preprocess(moved, size, mean, std, dtype, box=box, channels_last=channels_last).cpu()
    expected = reference.preprocess(frames, size, mean, std, box=box)
    return float((got.float() - expected).abs().max()) if got.numel() else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer combinations of layout and number of targets")
    parser.add_argument("--poison", action="store_true", help="fill freed memory with NaN first (a kernel of its own)")
    parser.add_argument("--launch-only", action="store_true", help="compare nothing: for a checker of memory and races")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th variant, from I on"
    )
    parser.add_argument("--no-pipeline", dest="pipeline", action="store_false", help="leave out what is off by default")
    parser.add_argument("--list", action="store_true", help="print the variants and run nothing")
    options = parser.parse_args()
    part, parts = options.part
    chosen = [v for v in variants(options.quick) if options.pipeline or not v.pipeline][part::parts]
    if options.list:
        print(*chosen, sep="\n")
        return 0
    if options.device != "cpu":
        torch.set_num_threads(1)  # small tensors, and several checkers run at once
    worst: dict[torch.dtype, float] = {}
    failed = []
    for seed, v in enumerate(chosen):
        try:
            difference = check(v, options.device, seed, options.poison, not options.launch_only)
        except (RuntimeError, ValueError, TypeError) as error:
            failed.append(f"{v}: {error}")
            if "CUDA error" in str(error):  # the context is lost: nothing after it means anything
                break
            continue
        worst[v.dtype] = max(worst.get(v.dtype, 0.0), difference)
        if not difference <= tolerance(v):
            failed.append(f"{v}: differs by {difference:.2g}")
    overlays = list(itertools.product(OVERLAYS, (0, 1, 16)))[part::parts]
    for (frame, grid), offset in overlays:
        levels = check_overlay(frame, grid, options.device, offset, seed=offset)
        if levels:
            failed.append(f"overlay {list(frame)} {list(grid)} offset {offset}: differs by {levels:.0f} levels")
    masks = list(itertools.product(MASKS, DTYPES, LAYOUTS[:4]))[part::parts]
    for (shape, grid), dtype, layout in masks:
        over = check_masks(shape, grid, dtype, layout, options.device)
        if not over <= 1:
            failed.append(
                f"mask_images {list(shape)} {list(grid)} {dtype} {layout}: {over:.2g} of what rounding explains"
            )
    halves = (torch.float32, torch.float16, torch.bfloat16)
    prepared = list(itertools.product(PREPROCESSED, halves, (False, True), (0, 1)))[part::parts]
    for (frame, size), dtype, last, offset in prepared:
        difference = check_preprocess(frame, size, dtype, last, options.device, offset)
        if not difference <= {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]:
            failed.append(f"preprocess {list(frame)} {list(size)} {dtype} offset {offset}: differs by {difference:.2g}")
    for line in failed[:40]:
        print("FAILED", line)
    errors = ", ".join(f"{str(dtype).removeprefix('torch.')} {error:.1e}" for dtype, error in worst.items())
    calls = len(chosen) + 4 * len(masks) + len(overlays) + len(prepared)
    print(f"{calls} calls on {options.device}, {len(failed)} failed; largest error: {errors}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
