"""``ops.eigen_cam`` and ``ops.kpca_cam`` against their references: layouts, dtypes, spectra, edges, gradients, compilation."""

from __future__ import annotations

import pytest
import torch
from samples import DTYPES, LAYOUTS, arrange
from torch import Tensor

from camfast import ops
from camfast.ops import reference, registration

NAMES = ["eigen_cam", "kpca_cam"]
SHAPES = [
    (1, 300, 7, 7),
    (3, 40, 7, 7),  # more positions than channels
    (2, 5, 4, 5),
    (2, 30, 13),
    (1, 60, 3, 4, 5),
    (2, 1, 3, 3),
    (2, 6, 1, 1),
    (2, 6, 1, 2),
    (1, 150, 10, 13),
    (1, 9, 30, 31),
]


def made(shape: tuple[int, ...], dtype=torch.float32, layout="contiguous", device="cpu", seed=0) -> Tensor:
    """Activations as after a ReLU, with a component that stands out, as those of photographs have."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=rng, dtype=torch.float64)
    along = torch.linspace(-1, 2, shape[-1], dtype=torch.float64)
    values = (values + along * torch.randn(shape[1], *(1,) * (len(shape) - 2), generator=rng)).clamp(min=0)
    return arrange(values.to(dtype).to(device), layout, len(shape) - 2)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    limit = 1e-9 if actual.dtype == torch.float64 else 1e-5
    scale = max(1.0, float(expected.nan_to_num().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=limit * scale, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_layouts(name, layout, device):
    for shape in SHAPES[: -1 if name == "kpca_cam" else None]:
        A = made(shape, layout=layout, device=device)
        for size, normalize in ((None, False), (9, True), (None, True)):
            actual = getattr(ops, name)(A, size, normalize)
            assert actual.dtype == torch.float32 and actual.is_contiguous()
            assert_close(actual, getattr(reference, name)(A.double(), size, normalize))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, dtype, device):
    for shape in SHAPES[:4]:
        for layout in ("contiguous", "channels_last", "misaligned"):
            A = made(shape, dtype, layout, device)
            actual = getattr(ops, name)(A, 12)
            assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_close(actual, getattr(reference, name)(A.double(), 12))


def with_singular_values(values: list[float], S: int, C: int, seed: int) -> Tensor:
    """fp64 ``[1, C, S]``, centred over positions, with the given singular values and random vectors."""
    rng = torch.Generator().manual_seed(seed)
    k = len(values)
    u = torch.randn(S, k, generator=rng, dtype=torch.float64)
    u, _ = torch.linalg.qr(u - u.mean(0))
    v, _ = torch.linalg.qr(torch.randn(C, k, generator=rng, dtype=torch.float64))
    return ((u * torch.tensor(values, dtype=torch.float64)) @ v.T).T[None]


@pytest.mark.parametrize("S, C", [(49, 200), (60, 20), (300, 260)], ids=str)
def test_near_ties_of_the_largest_eigenvalues(S, C, device):
    """The first two eigenvalues differ by 2e-3 to 2e-7 of themselves, in front of a spectrum that falls off slowly."""
    rest = [0.999 * 0.97**i for i in range(10)]
    for gap in (1e-3, 1e-5, 1e-7):
        A = with_singular_values([1.0, 1.0 - gap, *rest], S, C, seed=1).to(device)
        raw = ops.eigen_cam(A, normalize=False)
        expected = reference.eigen_cam(A, normalize=False)
        # What rounding of the matrix alone turns the vector by: its error over the gap.
        assert float((raw - expected).abs().max()) <= 1e-13 / gap + 1e-10
    single = with_singular_values([1.0, 0.999, *rest], S, C, seed=1).float().to(device)
    torch.testing.assert_close(
        ops.eigen_cam(single, normalize=False), reference.eigen_cam(single, normalize=False), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("S, C", [(49, 200), (60, 20)], ids=str)
def test_an_exact_tie_gives_a_direction_of_the_tied_plane(S, C, device):
    A = with_singular_values([2.0, 2.0, 1.0], S, C, seed=2).to(device)
    raw = ops.eigen_cam(A, normalize=False)[0]
    rows = A[0].T
    torch.testing.assert_close(rows @ (rows.T @ raw), 4 * raw, rtol=0, atol=1e-9)
    torch.testing.assert_close(raw.norm(), raw.new_tensor(2.0))
    assert torch.equal(raw, ops.eigen_cam(A, normalize=False)[0])


def test_few_different_positions(device):
    """Rank one, two equal columns, and a single bright position."""
    A = torch.zeros(3, 8, 5, 5, device=device)
    A[0] = torch.arange(8.0)[:, None, None] * torch.arange(5.0)
    A[1, :2, 1] = 1.0
    A[2, 3, 2, 2] = 5.0
    for name in NAMES:
        assert_close(getattr(ops, name)(A, 10), getattr(reference, name)(A.double(), 10))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_values(scale, device):
    A = made((2, 50, 6, 6), torch.float64, device=device)
    expected = reference.eigen_cam(A, normalize=False)
    assert_close(ops.eigen_cam(A * scale, normalize=False) / scale, expected)


def test_a_mean_far_above_the_differences(device):
    A = made((1, 40, 6, 6), torch.float32, device=device) + 1e4
    raw = ops.eigen_cam(A, normalize=False)
    torch.testing.assert_close(raw.double(), reference.eigen_cam(A.double(), normalize=False), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_change_the_map(name):
    A = made((1, 500, 7, 7))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(getattr(ops, name)(A, 20))
            assert torch.equal(results[-1], getattr(ops, name)(A, 20))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0])


@pytest.mark.parametrize("name", NAMES)
def test_not_finite_stays_in_its_image(name, device):
    A = made((4, 12, 5, 4), device=device)
    A[1, 3, 2, 2] = torch.inf
    A[2, 3, 2, 2] = torch.nan
    A[3, 0, 0, 0] = -torch.inf
    heat = getattr(ops, name)(A, 8)
    assert heat[1].isnan().all() and heat[3].isnan().all() and heat[[0, 2]].isfinite().all()
    assert_close(heat, getattr(reference, name)(A, 8))
    torch.testing.assert_close(heat[2], getattr(ops, name)(A.nan_to_num(nan=0), 8)[2])


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_empty(name, device):
    assert not getattr(ops, name)(torch.full((1, 3, 4, 4), 2.5, device=device)).any()
    assert getattr(ops, name)(torch.zeros(0, 3, 4, 4, device=device), 9).shape == (0, 9, 9)


def test_gamma(device):
    A = made((2, 10, 5, 5), device=device)
    for gamma in (0.05, 2.0, -0.1):
        assert_close(ops.kpca_cam(A, gamma=gamma), reference.kpca_cam(A.double(), gamma=gamma))


@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (1, 4, 3, 4), (2, 5, 6)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, shape, normalize, device):
    A = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(device)
    assert torch.autograd.gradcheck(lambda a: getattr(ops, name)(a, 6, normalize), (A.requires_grad_(),), atol=1e-5)


def test_gradients_where_values_are_not_finite(device):
    A = made((3, 6, 4, 3), device=device)
    A[1, 0, 0, 0], A[2, 0, 0, 0] = torch.nan, torch.inf
    A.requires_grad_()
    ops.eigen_cam(A, 5).sum().backward()
    assert A.grad[:2].isfinite().all() and A.grad[1, 0, 0, 0] == 0 and A.grad[2].isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_and_compile(name, device):
    op = getattr(torch.ops.camfast, name).default
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    quick = tests if name == "eigen_cam" else tests[:3]
    torch.library.opcheck(op, (made((2, 6, 4, 3), device=device).requires_grad_(), [9, 7], True), test_utils=quick)
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"camfast::{name}", "MPS")
    if name == "eigen_cam":
        return
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a: getattr(ops, name)(a * 1, 12) + 1, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for shape in ((2, 6, 4, 3), (3, 20, 5, 6)):
        A = made(shape, device=device)
        assert_close(compiled(A) - 1, getattr(ops, name)(A, 12))


def test_fallback_is_the_reference(monkeypatch):
    monkeypatch.setattr(registration, "_warned_devices", set())
    A, without_kernels = made((2, 6, 4, 3)), torch._C.DispatchKeySet(torch._C.DispatchKey.MPS)
    with pytest.warns(UserWarning, match="reference runs instead"):
        found = torch.ops.camfast.kpca_cam.default.redispatch(without_kernels, A, [5, 5], True, 0.5)
    assert torch.equal(found, reference.kpca_cam(A, (5, 5), True, 0.5))


def test_errors_say_what_came(device):
    A = torch.rand(2, 8, 4, 4, device=device)
    for name in NAMES:
        op = getattr(ops, name)
        with pytest.raises(TypeError, match="activations must be .*got a torch.int64 tensor"):
            op(A.long())
        with pytest.raises(ValueError, match=r"1 to 3 map dimensions, got \[2, 8\]"):
            op(A[..., 0, 0])
        with pytest.raises(ValueError, match=r"with channels .*got \[2, 0, 4, 4\]"):
            op(A[:, :0])
        with pytest.raises(ValueError, match="size must be an int or 2 numbers"):
            op(A, (3, 3, 3))
        with pytest.raises(RuntimeError):
            getattr(torch.ops.camfast, name)(A[:, :, :0], [3, 3], True)
    with pytest.raises(ValueError, match="gamma must be a finite number"):
        ops.kpca_cam(A, gamma=float("nan"))


def test_cuda_graph(cuda):
    small, large = made((2, 300, 7, 7), device=cuda), made((1, 200, 14, 14), device=cuda)
    ops.eigen_cam(small, 50), ops.eigen_cam(large, 50)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        maps = [ops.eigen_cam(small, 50), ops.eigen_cam(large, 50)]
    for seed in (1, 2):
        small.copy_(made((2, 300, 7, 7), seed=seed))
        large.copy_(made((1, 200, 14, 14), seed=seed))
        graph.replay()
        for found, A in zip(maps, (small, large), strict=True):
            assert_close(found, reference.eigen_cam(A.double(), 50))
