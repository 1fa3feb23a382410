"""Every op against its plain-PyTorch reference: values, layouts, dtypes, edges, gradients, compile, export, streams."""

from __future__ import annotations

import os

import pytest
import torch
from samples import DTYPES, EMPTY, FAMILY, LAYOUTS, SAMPLES, Sample
from torch import Tensor

from camfast import ops
from camfast.ops import colormaps, reference

MAPS_OF_ONE_SHAPE = Sample(2, 24, (6, 5), (13, 9), K=2)


def expected_of(op: str, A: Tensor, second: Tensor, size, normalize: bool) -> Tensor:
    """The reference on exactly the values the op sees, summed in fp64."""
    return getattr(reference, op)(A.double(), second.double(), size, normalize)


def assert_close(actual: Tensor, expected: Tensor, normalize: bool = True) -> None:
    limit = 1e-12 if actual.dtype == torch.float64 else 2e-5  # sums that cancel, fp32 coordinates of a long axis
    # Raw maps sum thousands of terms.
    scale = 1.0 if normalize else 3 * max(1.0, expected.nan_to_num().abs().max().item())
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=limit * scale, equal_nan=True)


@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", FAMILY)
def test_samples_and_layouts(op, layout, normalize, device):
    for sample in SAMPLES:
        A, second = sample.tensors(op, torch.float32, layout, device)
        actual = getattr(ops, op)(A, second, sample.size, normalize)
        assert actual.dtype == torch.float32 and actual.is_contiguous() and actual.device == A.device
        assert_close(actual, expected_of(op, A, second, sample.size, normalize), normalize)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_dtypes(op, dtype, device):
    for sample in SAMPLES[:6]:
        for layout in ("contiguous", "channels_last", "misaligned"):
            A, second = sample.tensors(op, dtype, layout, device)
            actual = getattr(ops, op)(A, second, sample.size)
            assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_close(actual, expected_of(op, A, second, sample.size, True))


@pytest.mark.parametrize("op", FAMILY)
def test_mixed_dtypes_and_layouts(op, device):
    A, second = MAPS_OF_ONE_SHAPE.tensors(op, torch.float32, "contiguous", device)
    half = A.half()
    assert_close(getattr(ops, op)(half, second), expected_of(op, half, second, None, True))
    last = A.to(memory_format=torch.channels_last)
    assert_close(getattr(ops, op)(last, second), expected_of(op, A, second, None, True))


@pytest.mark.parametrize("op", FAMILY)
def test_threads_do_not_change_the_map(op):
    A, second = Sample(3, 300, (9, 7), 40).tensors(op)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(getattr(ops, op)(A, second, 40))
            assert torch.equal(results[-1], getattr(ops, op)(A, second, 40))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0])


@pytest.mark.parametrize("sample", EMPTY, ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_empty(op, sample, device):
    A, second = sample.tensors(op, device=device)
    actual = getattr(ops, op)(A, second, sample.size)
    lead = (sample.N,) if sample.K is None else (sample.N, sample.K)
    assert actual.shape == (*lead, 14, 14)
    assert not actual.any()  # no image, no target, or a sum over no channels


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("op", FAMILY)
def test_not_finite_stays_in_its_image(op, bad, device):
    A, second = Sample(3, 20, (6, 5)).tensors(op, device=device)
    A[1, 3, 2, 2] = bad
    for size in (None, 17, (3, 2)):
        actual, expected = getattr(ops, op)(A, second, size), expected_of(op, A, second, size, True)
        assert not actual[[0, 2]].isnan().any()
        assert_close(actual, expected)
        raw, expected_raw = getattr(ops, op)(A, second, size, False), getattr(reference, op)(A, second, size, False)
        assert torch.equal(raw[[0, 2]].isfinite(), expected_raw[[0, 2]].isfinite())
        if size is None:
            assert torch.equal(raw.isnan(), expected_raw.isnan())


def test_not_finite_gradients_of_one_target(device):
    A, G = Sample(2, 8, (5, 5), K=3).tensors("grad_cam", device=device)
    G[0, 1, 2, 0, 0] = torch.nan
    heat = ops.grad_cam(A, G, 9)
    assert heat[0, 1].isnan().all()
    assert heat.isnan().sum() == 81


def test_constant_map_gives_zeros(device):
    A = torch.ones(2, 4, 6, 6, device=device)
    assert torch.equal(ops.grad_cam(A, A, 20), torch.zeros(2, 20, 20, device=device))
    assert torch.equal(ops.grad_cam(A, -A, 20), torch.zeros(2, 20, 20, device=device))


def test_range_of_a_normalized_map(device):
    A, G = Sample(4, 64, (7, 7)).tensors("grad_cam", device=device)
    for size in (7, 8, 50, 224, 3):
        heat = ops.grad_cam(A, G, size)
        assert heat.amin() == 0
        assert ((heat.amax((1, 2)) <= 1) & (heat.amax((1, 2)) > 1 - 1e-5)).all()


def test_corner_samples_decide_the_range(device):
    """The range is found from the samples at the borders of cells alone: equal to the full one over many shapes."""
    rng = torch.Generator().manual_seed(3)
    for _ in range(200):
        h, w, H, W = (int(torch.randint(1, top, (1,), generator=rng)) for top in (12, 12, 40, 40))
        maps = torch.randn(2, h, w, generator=rng).to(device)
        assert_close(ops.resize_normalize(maps, (H, W)), reference.resize_normalize(maps.double(), (H, W)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_resize_normalize(dtype, relu, device):
    for shape, size in [
        ((5, 7, 7), (224, 224)),
        ((2, 3, 4, 5), 9),
        ((6, 6), (3, 17)),
        ((4, 11), (30,)),
        ((2, 3, 4, 5), (6, 5, 4)),
        ((0, 7, 7), (9, 9)),
        ((1, 300, 280), (700, 31)),
        ((3, 8, 8), None),
    ]:
        maps = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype).to(device)
        for normalize in (True, False):
            actual = ops.resize_normalize(maps, size, normalize, relu)
            expected = reference.resize_normalize(maps.double(), size, normalize, relu)
            # Two units of the fp32 coordinate of the last sample, times the step between neighbouring values.
            tolerance = 1e-12 if dtype == torch.float64 else 4e-6 if max(shape) < 100 else 1e-4
            torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_resize_is_interpolate(device):
    maps = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(5)).to(device)
    expected = torch.nn.functional.interpolate(
        maps[None].double(), size=(50, 23), mode="bilinear", align_corners=False
    )[0].float()  # in fp32 its samples are off
    torch.testing.assert_close(ops.resize_normalize(maps, (50, 23), normalize=False), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("colormap", ["jet", "viridis", "turbo", "gray", "cividis"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_overlay(colormap, alpha, device):
    if colormap not in colormaps.names():
        pytest.importorskip("matplotlib")
    rng = torch.Generator().manual_seed(6)
    for frame, heat_size in [((60, 81), (7, 7)), ((1, 1), (1, 1)), ((33, 50), (33, 50)), ((64, 64), (100, 90))]:
        frames = torch.randint(0, 256, (2, *frame, 3), generator=rng, dtype=torch.uint8).to(device)
        heat = torch.rand(2, *heat_size, generator=rng).to(device) * 1.2 - 0.1
        heat[0, 0, 0] = torch.nan
        actual = ops.overlay(frames, heat, colormap, alpha)
        expected = reference.overlay(frames, heat, colormaps.table(colormap, device), alpha)
        difference = (actual.int() - expected.int()).abs()
        # A value within rounding of the edge between two rows of the table may fall on either side.
        assert difference.max() <= 5
        assert (difference > 1).float().mean() < 2e-3
        single = ops.overlay(frames[1], heat[1], colormap, alpha)
        assert torch.equal(single, actual[1])


def test_overlay_shows_the_frame_under_nan(device):
    frames = torch.randint(0, 256, (1, 8, 9, 3), dtype=torch.uint8, device=device)
    assert torch.equal(ops.overlay(frames, torch.full((1, 8, 9), torch.nan, device=device)), frames)
    strided = torch.randint(0, 256, (1, 3, 8, 9), dtype=torch.uint8, device=device).permute(0, 2, 3, 1)
    heat = torch.rand(1, 4, 4, device=device)
    assert torch.equal(ops.overlay(strided, heat), ops.overlay(strided.contiguous(), heat))


# ------------------------------------------------------------------------------------------- dispatcher and compilation


def raw_op(op: str):
    return getattr(torch.ops.camfast, op).default


@pytest.mark.parametrize("op", FAMILY)
def test_opcheck(op, device):
    for sample in (Sample(2, 6, (4, 3), (9, 7)), Sample(1, 4, (5,), K=2)):
        size = None if sample.size is None else list(sample.size)
        for grad in (False, True):
            tensors = [t.requires_grad_(grad) for t in sample.tensors(op, torch.float32, device=device)]
            torch.library.opcheck(raw_op(op), (*tensors, size, True))


def test_opcheck_of_the_others(device):
    maps = torch.rand(2, 5, 5, device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.camfast.resize_normalize.default, (maps, [9, 9], True, False))
    frames = torch.zeros(1, 6, 6, 3, dtype=torch.uint8, device=device)
    colors = colormaps.table("jet", device)
    torch.library.opcheck(torch.ops.camfast.overlay.default, (frames, torch.rand(1, 3, 3, device=device), colors, 0.5))


@pytest.mark.parametrize("op", FAMILY)
def test_compile(op, device):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a, s: getattr(ops, op)(a * 1, s, 12) + 1, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for sample in (Sample(2, 6, (4, 3)), Sample(3, 9, (5, 6))):
        A, second = sample.tensors(op, device=device)
        assert_close(compiled(A, second) - 1, getattr(ops, op)(A, second, 12))


def test_compile_with_inductor(device):
    torch._dynamo.reset()

    def chain(a, g, frames):
        heat = ops.grad_cam(a.relu(), g * 2, (10, 12))
        return ops.overlay(frames, ops.resize_normalize(heat, (6, 6)))

    A, G = Sample(2, 6, (4, 3)).tensors("grad_cam", device=device)
    frames = torch.randint(0, 256, (2, 20, 21, 3), dtype=torch.uint8, device=device)
    compiled = torch.compile(chain, fullgraph=True)
    difference = (compiled(A, G, frames).int() - chain(A, G, frames).int()).abs()
    assert (difference > 1).float().mean() < 1e-2


def test_compiled_gradient(device):
    torch._dynamo.reset()
    A, G = Sample(2, 6, (4, 3)).tensors("layer_cam", device=device)
    A.requires_grad_()
    compiled = torch.compile(lambda a: ops.layer_cam(a, G, 9).square().sum(), fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(A), A)
    (expected,) = torch.autograd.grad(ops.layer_cam(A, G, 9).square().sum(), A)
    torch.testing.assert_close(ours, expected)


def test_export(device):
    class Head(torch.nn.Module):
        def forward(self, a, g):
            return ops.grad_cam(a, g, 20)

    A, G = Sample(2, 6, (4, 3)).tensors("grad_cam", device=device)
    exported = torch.export.export(Head(), (A, G)).module()
    assert_close(exported(A, G), ops.grad_cam(A, G, 20))


def test_under_autocast(device):
    A, G = Sample(2, 6, (4, 3)).tensors("grad_cam", device=device)
    with torch.autocast(A.device.type, dtype=torch.bfloat16):
        assert_close(ops.grad_cam(A, G, 9), reference.grad_cam(A, G, 9))


def test_inference_mode_and_inference_tensors(device):
    with torch.inference_mode():
        A, G = Sample(2, 6, (4, 3)).tensors("grad_cam", device=device)
        inside = ops.grad_cam(A, G, 9)
    assert_close(ops.grad_cam(A.clone(), G.clone(), 9), inside)


def test_fallback_for_a_device_without_kernels():
    """Meta tensors aside, an op without a kernel for its device runs the reference: checked through the dispatcher's table."""
    for op in [*FAMILY, "resize_normalize", "overlay"]:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"camfast::{op}", "CPU")
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"camfast::{op}", "MPS")
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"camfast::{op}", "XPU")


# -------------------------------------------------------------------------------------------------------------- errors


def test_errors_say_what_came(device):
    A = torch.rand(2, 8, 7, 7, device=device)
    with pytest.raises(
        ValueError, match=r"gradients must have shape \[2, 8, 7, 7\] or \[2, 'K', 8, 7, 7\].*got \[2, 8, 7, 6\]"
    ):
        ops.grad_cam(A, A[..., :6])
    with pytest.raises(ValueError, match=r"weights must have shape \[2, 8\] .*got \[3, 8\]"):
        ops.cam(A, torch.rand(3, 8, device=device))
    with pytest.raises(ValueError, match=r"1 to 3 map dimensions, got \[2, 8\]"):
        ops.grad_cam(A[..., 0, 0], A[..., 0, 0])
    with pytest.raises(ValueError, match="at least one position"):
        ops.grad_cam(A[..., :0], A[..., :0])
    with pytest.raises(TypeError, match="activations must be .*got a torch.int64 tensor"):
        ops.grad_cam(A.long(), A)
    with pytest.raises(TypeError, match="gradients must be .*got list"):
        ops.grad_cam(A, [1.0])
    with pytest.raises(ValueError, match="size must be positive, got 0"):
        ops.grad_cam(A, A, 0)
    with pytest.raises(ValueError, match=r"size must be an int or 2 numbers for maps \[7, 7\], got \(3, 4, 5\)"):
        ops.grad_cam(A, A, (3, 4, 5))
    with pytest.raises(TypeError, match="size must be made of ints"):
        ops.grad_cam(A, A, (3.5, 4))
    with pytest.raises(ValueError, match="unknown colormap 'heat'"):
        ops.overlay(
            torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=device), torch.zeros(1, 2, 2, device=device), "heat"
        )
    with pytest.raises(TypeError, match="frames must be a uint8 tensor, got a torch.float32 tensor"):
        ops.overlay(torch.zeros(1, 4, 4, 3, device=device), torch.zeros(1, 2, 2, device=device))
    with pytest.raises(ValueError, match=r"one map per frame"):
        ops.overlay(torch.zeros(2, 4, 4, 3, dtype=torch.uint8, device=device), torch.zeros(1, 2, 2, device=device))
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 1.5"):
        ops.overlay(
            torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=device), torch.zeros(1, 2, 2, device=device), alpha=1.5
        )


def test_the_op_itself_checks(device):
    """Called past the wrappers, an op must refuse what would read out of bounds."""
    A = torch.rand(2, 8, 7, 7, device=device)
    for bad in (A[:1], A[:, :4], A[..., :6], A[0]):
        with pytest.raises(RuntimeError):
            torch.ops.camfast.grad_cam(A, bad.contiguous(), [14, 14], True)
    with pytest.raises(RuntimeError):
        torch.ops.camfast.grad_cam(A, A, [14], True)
    with pytest.raises(RuntimeError):
        torch.ops.camfast.grad_cam(A, A.double(), [14, 14], True)


# ---------------------------------------------------------------------------------------------------------------- CUDA


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        if os.environ.get("CAMFAST_REQUIRE_CUDA") == "1":
            pytest.fail("CAMFAST_REQUIRE_CUDA=1, but torch sees no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


def test_cuda_kernels_are_the_ones_that_run(cuda):
    info = ops.build_info()
    assert info["cuda_loaded"], info["cuda_problem"]
    for op in [*FAMILY, "resize_normalize", "overlay"]:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"camfast::{op}", "CUDA")


def test_cuda_graph(cuda):
    A, G = Sample(1, 2048, (7, 7), 224).tensors("grad_cam", device=cuda)
    frames = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, device=cuda)
    ops.overlay(frames, ops.grad_cam(A, G, 224))  # warm-up: tables, attributes
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        heat = ops.grad_cam(A, G, 224)
        drawn = ops.overlay(frames, heat)
    for seed in range(3):
        fresh = Sample(1, 2048, (7, 7), 224).tensors("grad_cam", device=cuda, seed=seed)
        A.copy_(fresh[0])
        G.copy_(fresh[1])
        graph.replay()
        assert_close(heat, reference.grad_cam(*fresh, 224))
        assert torch.equal(drawn, ops.overlay(frames, heat))


def test_cuda_streams(cuda):
    samples = [Sample(4, 512, (14, 14), 100).tensors("hires_cam", device=cuda, seed=s) for s in range(8)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for i, (A, G) in enumerate(samples * 5):
        with torch.cuda.stream(streams[i % 2]):
            results.append(ops.hires_cam(A, G, 100))
    torch.cuda.synchronize()
    for (A, G), heat in zip(samples * 5, results, strict=True):
        assert_close(heat, reference.hires_cam(A, G, 100))


def test_cuda_second_device(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    A, G = Sample(2, 64, (7, 7), 50).tensors("grad_cam", device="cuda:1")
    assert_close(ops.grad_cam(A, G, 50), reference.grad_cam(A, G, 50))


def test_cuda_memory(cuda):
    A, G = Sample(8, 256, (56, 56), 224).tensors("grad_cam", device=cuda)
    ops.grad_cam(A, G, 224)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    heat = ops.grad_cam(A, G, 224)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= heat.numel() * 4 + 1024 * 1024
