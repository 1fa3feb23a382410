"""The CUDA kernels, run on the CPU by the emulator: indices, barriers and arithmetic of every path, against the reference.

What a real GPU adds (its memory model, its compiler) is tested by test_ops.py, beside it, where there is one.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from samples import DTYPES, FAMILY, SAMPLES, Sample, arrange
from torch import Tensor

from camfast.ops import colormaps, reference

HERE = Path(__file__).resolve().parents[1]
KERNELS = HERE.parent / "csrc" / "cuda"
UNITS = sorted(path.stem for path in KERNELS.glob("*.cu"))

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the emulated kernels with")

# multiprocessors, shared bytes a block, blocks a cluster, grid-wide barriers, copies beside the arithmetic (2: in bulk)
MACHINES = {
    "clusters": (20, 227 * 1024, 8, 1, 0),
    "grid": (20, 99 * 1024, 1, 1, 0),
    "alone": (20, 64 * 1024, 1, 0, 0),
    "tiny shared memory": (20, 24 * 1024, 8, 1, 0),  # pushes larger maps onto the path for large maps
}
PIPELINES = {
    "bulk copies, clusters": (20, 227 * 1024, 8, 1, 2),
    "bulk copies, one block a map": (1, 227 * 1024, 1, 0, 2),
    "copies by threads, grid": (20, 163 * 1024, 1, 1, 1),
    "copies by threads, little shared memory": (1, 99 * 1024, 1, 0, 1),  # too little for 64 x 64 in fp32
}
PATHS = {0: "one block", 1: "cluster", 2: "grid", 3: "large", 4: "piped", 5: "piped cluster", 6: "piped grid"}
ATOL = {torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The kernels as they are, compiled for the emulator."""
    folder = tmp_path_factory.mktemp("kernels")
    flags = [
        "-std=c++17",
        "-O1",
        "-DCAMFAST_EMULATOR",
        "-Wno-unknown-pragmas",
        f"-I{HERE / 'emulator'}",
        f"-I{KERNELS}",
    ]
    compilers = [
        subprocess.Popen(["g++", "-x", "c++", *flags, "-c", KERNELS / f"{unit}.cu", "-o", folder / f"{unit}.o"])
        for unit in UNITS
    ]
    assert [c.wait() for c in compilers] == [0] * len(UNITS)
    main = HERE / "emulator" / "run_kernels.cpp"
    target = folder / "run_kernels"
    subprocess.run(["g++", *flags, main, *(folder / f"{u}.o" for u in UNITS), "-o", target], check=True)
    return target


def run(program: Path, header: list[int], inputs: list[bytes], result_dtype: torch.dtype) -> tuple[Tensor, str]:
    """The result of one case, flat, and the path it took."""
    data = struct.pack(f"<{len(header)}q", *header) + b"".join(inputs)
    answer = subprocess.run([program], input=data, capture_output=True, timeout=300)
    assert answer.returncode == 0, answer.stderr.decode()
    (path,) = struct.unpack("<q", answer.stdout[:8])
    return torch.frombuffer(bytearray(answer.stdout[8:]), dtype=result_dtype), PATHS[path]


def storage_bytes(x: Tensor) -> bytes:
    """The bytes from the tensor's first element to its last, gaps included."""
    count = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((count,), (1,)).view(torch.uint8).numpy().tobytes()


def extent(shape) -> list[int]:
    return [1] * (3 - len(shape)) + list(shape)


def emulate_cam(program, op, sample: Sample, dtype, channels_last, normalize, machine, order=0, shift=0, spoil=None):
    A, second = sample.tensors(op, dtype, "channels_last" if channels_last else "contiguous")
    if spoil is not None:
        (A if spoil[0] == "A" else second).view(-1)[spoil[1]] = torch.nan
    rank = len(sample.map)
    positions = torch.Size(sample.map).numel()
    size = (sample.size,) * rank if isinstance(sample.size, int) else sample.size or sample.map
    step = sample.C if channels_last else positions
    weights = op == "cam"
    header = [0, order, DTYPES.index(dtype), FAMILY.index(op), int(channels_last), sample.N, sample.K or 1, sample.C]
    header += [A.stride(0), step, second.stride(0), 0 if sample.K is None else second.stride(1), 0 if weights else step]
    header += [*extent(sample.map), *extent(size), int(normalize), *(MACHINES | PIPELINES)[machine], shift]
    inputs = [storage_bytes(A), storage_bytes(second)]
    header += [len(i) for i in inputs]
    flat, path = run(program, header, inputs, torch.float32)
    expected = getattr(reference, op)(A.double(), second.double(), size, normalize)
    return flat.view(expected.shape), expected, path


def assert_close(actual: Tensor, expected: Tensor, dtype) -> None:
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=ATOL[dtype] * scale, equal_nan=True)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("op", FAMILY)
def test_every_sample(program, op, machine):
    seen = set()
    for i, sample in enumerate(SAMPLES):
        for channels_last in (False, True):
            actual, expected, path = emulate_cam(
                program, op, sample, torch.float32, channels_last, normalize=i % 2 == 0, machine=machine, order=i % 4
            )
            seen.add(path)
            assert_close(actual, expected, torch.float32)
    assert {"clusters": "cluster", "grid": "grid", "alone": "one block", "tiny shared memory": "large"}[machine] in seen


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_dtypes_and_alignment(program, op, dtype):
    for sample in (Sample(1, 70, (7, 7), 20), Sample(2, 48, (4, 6), (9, 9), K=2), Sample(1, 5, (36, 32), 40)):
        for channels_last in (False, True):
            for shift in (0, torch.empty(0, dtype=dtype).element_size()):
                actual, expected, _ = emulate_cam(
                    program, op, sample, dtype, channels_last, normalize=False, machine="clusters", order=5, shift=shift
                )
                assert_close(actual, expected, dtype)


@pytest.mark.parametrize("machine", PIPELINES)
@pytest.mark.parametrize("op", ["grad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise"])
def test_pipeline(program, op, machine):
    """Large maps through the ring: rows that start anywhere, more and fewer channels than stages, targets, NaN."""
    seen = set()
    for i, (sample, spoil) in enumerate(
        [
            (Sample(1, 9, (36, 32), 40), None),  # rows of whole units
            (Sample(2, 7, (33, 33), 20), None),  # each row starts elsewhere in one, and so does the second image
            (Sample(1, 5, (33, 35), 9, K=2), None),  # the targets' gradients too
            (Sample(1, 1, (4, 9, 31), 6), None),
            (Sample(1, 23, (64, 64)), None),
            (Sample(1, 70, (1, 1025)), None),
            (Sample(1, 5, (33, 33)), ("A", 2 * 1089 + 77)),
            (Sample(1, 5, (33, 33)), ("G", 4 * 1089 + 1088)),
        ]
    ):
        for dtype in DTYPES[1:]:
            shift = (i + DTYPES.index(dtype)) % 2 * torch.empty(0, dtype=dtype).element_size()
            actual, expected, path = emulate_cam(
                program, op, sample, dtype, False, i % 2 == 0, machine, order=(i + 1) % 6, shift=shift, spoil=spoil
            )
            seen.add(path)
            assert_close(actual, expected, dtype)
            assert spoil is None or expected.isnan().any()
    wide = "piped cluster" if "clusters" in machine else "piped grid" if "grid" in machine else "piped"
    assert wide in seen and seen <= {wide, "piped", *(("one block",) if "little" in machine else ())}


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("machine", ["clusters", "tiny shared memory"])
def test_resize_normalize(program, dtype, machine):
    for shape, size, relu in [((5, 7, 7), (40, 31), True), ((1, 90, 88), (33, 200), False), ((2, 1, 1), (3, 3), False)]:
        maps = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        for normalize in (True, False):
            header = [1, 3, DTYPES.index(dtype), shape[0], *extent(shape[1:]), *extent(size), int(normalize), int(relu)]
            header += [*MACHINES[machine], maps.numel() * maps.element_size()]
            actual, _ = run(program, header, [storage_bytes(maps)], torch.float32)
            expected = reference.resize_normalize(maps.double(), size, normalize, relu)
            assert_close(actual.view(expected.shape), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("channels_last", [0, 1])
def test_preprocess(program, dtype, channels_last):
    # frame, result, box in thousandths of a pixel; the wide one needs several strips a tile
    for shape, size, box, shift in [
        ((2, 45, 80), (12, 20), (0, 0, 80000, 45000), 0),
        ((2, 45, 80), (12, 20), (0, 0, 80000, 45000), 1),
        ((1, 13, 37), (30, 90), (0, 0, 37000, 13000), 0),
        ((1, 33, 58), (16, 19), (-3300, 4100, 60200, 32900), 0),
        ((1, 4, 3000), (3, 2), (0, 0, 3000000, 4000), 0),
        ((1, 1, 1), (2, 3), (0, 0, 1000, 1000), 0),
    ]:
        frames = torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
        N, H, W = shape
        header = [6, 2, DTYPES.index(dtype), N, box[1], box[3], H, size[0], box[0], box[2], W, size[1]]
        actual, _ = run(program, [*header, channels_last, shift], [storage_bytes(frames)], dtype)
        mean, std = (64 / 255, 64 / 255, -8 / 255), (64 / 255, 32 / 255, 16 / 255)
        expected = reference.preprocess(frames, size, mean, std, box=[edge / 1000 for edge in box])
        actual = actual.view(N, *size, 3).permute(0, 3, 1, 2) if channels_last else actual.view(expected.shape)
        tolerance = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("frame", [(32, 48), (9, 23), (1, 1)])
def test_overlay(program, frame, shift):
    rng = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (3, *frame, 3), generator=rng, dtype=torch.uint8)
    heat = torch.rand(3, 5, 6, generator=rng)
    heat[1, 2, 3] = torch.nan
    colors = colormaps.table("jet")
    header = [2, 4, 3, *extent(heat.shape[1:]), *extent(frame), 40, *MACHINES["clusters"], shift]
    actual, _ = run(program, header, [storage_bytes(x) for x in (frames, heat, colors)], torch.uint8)
    expected = reference.overlay(frames, heat, colors, 0.4)
    difference = (actual.view(expected.shape).int() - expected.int()).abs()
    assert difference.max() <= 2  # a value on the edge between two rows of the table
    assert (difference > 1).float().mean() < 0.01


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 7), (7, 9, 23), (3, 40, 31)], ids=str)
def test_tile_maps(program, shape, dtype):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    if shape[0] > 2:
        maps[0, 0, 0], maps[1], maps[2, 0, 0] = torch.nan, 2.0, torch.inf
    maps, colors, limits = maps.to(dtype), torch.arange(768).view(256, 3).to(torch.uint8), torch.tensor([-0.5, 1.0])
    for columns, pad_y, pad_x, scale, parts, shift in [(1, 0, 0, 1, 1, 0), (3, 2, 2, 1, 3, 1), (4, 13, 1, 3, 2, 3)]:
        for has_limits in (0, 1):
            header = [
                3,
                shift,
                DTYPES.index(dtype),
                *shape,
                columns,
                pad_y,
                pad_x,
                scale,
                200,
                parts,
                has_limits,
                shift,
            ]
            inputs = [storage_bytes(x) for x in (maps, colors, limits)[: 2 + has_limits]]
            actual, _ = run(program, header, inputs, torch.uint8)
            expected = reference.tile_maps(
                maps, colors, columns, pad_y, pad_x, scale, limits if has_limits else None, 200
            )
            wrong = (actual.view(expected.shape) != expected).any(-1)
            assert wrong.float().mean() < 0.01  # a value on the edge between two shades


def emulate_eigen(program, name: str, A: Tensor, size, normalize: bool, machine: str, order: int = 0, shift: int = 0):
    grid, channels_last = A.shape[2:], A.stride(1) == 1
    positions = grid.numel()
    strides = [A.stride(0), 1, A.shape[1]] if channels_last else [A.stride(0), positions, 1]
    header = [4, order, DTYPES.index(A.dtype), A.shape[0], A.shape[1], *strides, *extent(grid), *extent(size)]
    header += [int(normalize), int(name == "kpca_cam"), *MACHINES[machine], shift, A.numel() * A.element_size()]
    flat, path = run(program, header, [storage_bytes(A)], torch.float32)
    expected = getattr(reference, name)(A.double(), size, normalize)
    return flat.view(expected.shape), expected, path


def activations(shape, dtype=torch.float32, channels_last=False) -> Tensor:
    rng = torch.Generator().manual_seed(6)
    A = torch.randn(shape, generator=rng, dtype=torch.float64)
    A = (A + torch.linspace(-1, 2, shape[-1]) * torch.rand(shape[1], *(1,) * (len(shape) - 2), generator=rng)).clamp(0)
    return arrange(A.to(dtype), "channels_last" if channels_last else "contiguous", len(shape) - 2)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["eigen_cam", "kpca_cam"])
def test_eigen(program, name, machine):
    seen = set()
    shapes = [(2, 300, 7, 7), (3, 70, 13), (1, 40, 9, 10), (2, 90, 1, 9, 9), (1, 3, 8, 8), (2, 5, 1, 1), (2, 6, 1, 2)]
    for i, shape in enumerate(shapes):
        A = activations(shape, channels_last=i % 2 == 1)
        size = tuple(n + 5 for n in shape[2:])
        actual, expected, path = emulate_eigen(program, name, A, size, i % 3 != 0, machine, order=i % 4)
        seen.add(path)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=2e-5 * scale)
    assert {"clusters": "cluster", "grid": "grid", "alone": "one block", "tiny shared memory": "large"}[machine] in seen
    assert "large" in seen


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_eigen_dtypes(program, dtype):
    for shape in ((1, 140, 7, 7), (1, 70, 9, 8)):
        for channels_last in (False, True):
            A = activations(shape, dtype, channels_last)
            shift = A.element_size()
            actual, expected, _ = emulate_eigen(program, "eigen_cam", A, (12, 11), True, "clusters", shift=shift)
            torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=2e-5)


def test_eigen_of_what_is_not_finite_or_constant(program):
    for shape in ((4, 20, 5, 4), (4, 20, 9, 9)):
        A = activations(shape)
        A[0, 3, 2, 2], A[1, 0, 0, 0], A[2] = torch.inf, torch.nan, 1.5
        actual, expected, _ = emulate_eigen(program, "eigen_cam", A, (9, 9), True, "alone")
        assert expected[0].isnan().all() and expected[1:].isfinite().all() and not actual[2].any()
        torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=2e-5, equal_nan=True)


def test_eigen_of_a_near_tie(program):
    rng = torch.Generator().manual_seed(7)
    u = torch.randn(49, 6, generator=rng, dtype=torch.float64)
    u, _ = torch.linalg.qr(u - u.mean(0))
    v, _ = torch.linalg.qr(torch.randn(128, 6, generator=rng, dtype=torch.float64))
    for gap, atol in ((1e-2, 5e-5), (1e-3, 5e-4)):
        A = ((u * torch.tensor([1, 1 - gap, 0.9, 0.8, 0.5, 0.1])) @ v.T).T.reshape(1, 128, 7, 7).float().contiguous()
        actual, expected, _ = emulate_eigen(program, "eigen_cam", A, (7, 7), False, "clusters")
        torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("machine", ["clusters", "tiny shared memory"])
def test_mask_images(program, dtype, machine):
    rng = torch.Generator().manual_seed(8)
    cases = [((2, 3, 12, 16), (2, 3, 7, 7)), ((1, 2, 9, 7), (1, 2, 20, 11)), ((1, 1, 3, 4, 6), (1, 2, 2, 3, 3))]
    cases += [((1, 3, 6, 8), (1, 1, 70, 70))] if machine == "tiny shared memory" else []
    for i, (shape, grid) in enumerate(cases):
        images = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
        maps = torch.randn(grid, generator=rng, dtype=torch.float64).to(dtype)
        maps = maps.float()
        for channels_last, corners, first in ((0, 1, 0), (1, 0, 1), (0, 0, 0), (1, 1, 1)):
            shift = images.element_size() * (i % 2)
            laid_out = images.movedim(1, -1).contiguous() if channels_last else images
            header = [5, i % 4, DTYPES.index(dtype), shape[0], grid[1], shape[1], channels_last, corners, first]
            header += [*extent(grid[2:]), *extent(shape[2:]), *MACHINES[machine], shift]
            flat, _ = run(program, header, [storage_bytes(laid_out), storage_bytes(maps)], dtype)
            expected = reference.mask_images(images.double(), maps.double(), bool(corners), bool(first))
            actual = (
                flat.view(expected.movedim(1, -1).shape).movedim(-1, 1) if channels_last else flat.view_as(expected)
            )
            limit = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
            torch.testing.assert_close(actual.double(), expected, rtol=0, atol=limit)


def test_nan_stays_in_its_image(program):
    sample = Sample(3, 20, (6, 5), (12, 11))
    A, G = sample.tensors("grad_cam")
    A[1, 3, 2, 2] = torch.nan
    header = [0, 1, 1, FAMILY.index("grad_cam"), 0, 3, 1, 20, A.stride(0), 30, G.stride(0), 0, 30]
    header += [*extent((6, 5)), *extent((12, 11)), 1, *MACHINES["grid"], 0, A.numel() * 4, G.numel() * 4]
    flat, _ = run(program, header, [storage_bytes(A), storage_bytes(G)], torch.float32)
    expected = reference.grad_cam(A, G, (12, 11))
    assert expected[1].isnan().all()
    assert not expected[[0, 2]].isnan().any()
    assert_close(flat.view(expected.shape), expected, torch.float32)


# Derivatives


@pytest.mark.parametrize("order", range(3))
def test_resize_backward(program, order):
    rng = torch.Generator().manual_seed(9)
    shapes = [
        ((3, 7, 7), (40, 31)),
        ((2, 20, 9), (6, 30)),
        ((1, 1, 1), (3, 3)),
        ((2, 3, 4, 2), (5, 4, 6)),
        ((4, 9), (33,)),
    ]
    for shape, size in [*shapes, ((2, 5, 5), (5, 5)), ((1, 6, 5), (1, 1))]:
        maps = torch.randn(shape, generator=rng)
        maps[0] = -1 if len(shape) % 2 else maps[0]  # blank after a ReLU, constant without
        grad = torch.randn(shape[0], *size, generator=rng)
        for normalize, relu in ((1, 1), (1, 0), (0, 0)):
            header = [7, order, shape[0], *extent(shape[1:]), *extent(size), normalize, relu]
            actual, _ = run(program, header, [storage_bytes(grad), storage_bytes(maps)], torch.float32)
            leaf = maps.double().requires_grad_()
            heat = reference.resize_normalize(leaf, size, bool(normalize), bool(relu))
            (expected,) = torch.autograd.grad(heat, leaf, grad.double())
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(actual.view(shape).double(), expected, rtol=0, atol=2e-5 * scale)


def backward_case(op: str, sample: Sample, dtype, channels_last: bool, shift: int, order: int):
    """The header and inputs of one case, and what comes out by the reference."""
    A, second = sample.tensors(op, dtype, "channels_last" if channels_last else "contiguous")
    N, K, C, S = sample.N, sample.K or 1, sample.C, torch.Size(sample.map).numel()
    grad = torch.randn(N, *([] if sample.K is None else [K]), *sample.map, generator=torch.Generator().manual_seed(3))
    steps = (1, C) if channels_last else (S, 1)
    of_second = (1, 0) if op == "cam" else steps
    target = 0 if sample.K is None else second.stride(1)
    header = [8, order, DTYPES.index(dtype), FAMILY.index(op), N, K, C, S]
    header += [A.stride(0), 0, *steps, second.stride(0), target, *of_second]
    inputs = [storage_bytes(grad), storage_bytes(A), storage_bytes(second)]
    header += [shift, len(inputs[1]), len(inputs[2])]
    leaves = [A.double().requires_grad_(), second.double().requires_grad_()]
    heat = getattr(reference, op)(*leaves, None, False)
    return header, inputs, (A, second), torch.autograd.grad(heat, leaves, grad.double())


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_cam_backward(program, op, dtype):
    samples = [Sample(2, 19, (7, 7)), Sample(1, 8, (9, 8), K=3), Sample(2, 5, (3, 2, 4), K=2), Sample(1, 3, (1, 1))]
    for i, sample in enumerate(samples):
        for channels_last in (False, True):
            shift = i % 2 * torch.empty(0, dtype=dtype).element_size()
            header, inputs, given, expected = backward_case(op, sample, dtype, channels_last, shift, i % 4)
            flat, _ = run(program, header, inputs, dtype)
            parts = flat.split([tensor.numel() for tensor in given])
            for part, tensor, wanted in zip(parts, given, expected, strict=True):
                actual = part.as_strided(tensor.shape, tensor.stride()).double()
                limit = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
                scale = max(1.0, float(wanted.abs().max()))
                torch.testing.assert_close(actual, wanted, rtol=0, atol=limit * scale)
