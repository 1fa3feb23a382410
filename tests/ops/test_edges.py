"""Numbers at the edges: infinity, constants, long axes, sizes beyond counting, memory that is not there, traces, derivatives."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from interpreter import run_python, start_python
from samples import FAMILY, Sample
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from camfast import ops
from camfast.ops import colormaps, reference

FRAMES, HEAT = torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.rand(1, 4, 4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("op", FAMILY)
def test_a_gradient_that_is_not_finite_makes_its_image_nan(op, bad, layout, device):
    """Minus infinity too, which ReLU would cut off."""
    A, second = Sample(2, 24, (6, 5)).tensors(op, layout=layout, device=device)
    second[(1, 3, *(2,) * (second.ndim - 2))] = bad
    for function in (getattr(ops, op), getattr(reference, op)):
        heat = function(A, second, (9, 9))
        assert heat[1].isnan().all() and heat[0].isfinite().all()


def test_minus_infinity_is_not_cut_off(device):
    maps = torch.tensor([[[0.0, 1.0], [2.0, -torch.inf]], [[0.0, 1.0], [2.0, -3.0]]], device=device)
    for function in (ops.resize_normalize, reference.resize_normalize):
        heat = function(maps, (5, 5), relu=True)
        assert heat[0].isnan().all() and heat[1].isfinite().all()


CONSTANTS = """
import sys, torch
from camfast import ops
asked, capability = sys.argv[1], torch.ops.camfast.cpu_capability()
assert asked != "baseline" or capability == "baseline", capability
rng, bad = torch.Generator().manual_seed(0), 0
for rank in (1, 2, 3):
    for _ in range(200):
        own, out = ([int(x) for x in torch.randint(1, top, (rank,), generator=rng)] for top in (9, 30))
        value = float(torch.randn((), generator=rng)) * 10 ** float(torch.empty(()).uniform_(-6, 6, generator=rng))
        maps = torch.full((1, 1, *own), value)
        bad += bool(ops.resize_normalize(maps[0], out).any()) + bool(ops.mask_images(torch.ones(1, 1, *out), maps).any())
assert not bad, bad
"""


@pytest.mark.parametrize("capability", ["baseline", "avx2", ""])
def test_a_constant_map_is_zero_on_every_processor(capability):
    """``(1 - w) * v + w * v`` rounds, above all without fused multiply-add; a min-max would magnify that."""
    process = start_python("-c", CONSTANTS, capability, variables={"CAMFAST_CPU_CAPABILITY": capability})
    words, _ = process.communicate(timeout=300)
    assert process.returncode == 0, words


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("length, out", [(7, 65536), (65535, 65536), (40000, 131072), (300000, 70), (2, 1)])
def test_samples_of_long_axes_lie_where_they_should(length, out, corners, device):
    rng = np.random.default_rng(0)
    maps = rng.random((1, length), dtype=np.float32)
    i = np.arange(out)
    at = i * (length - 1) / max(out - 1, 1) if corners else (i + 0.5) * length / out - 0.5
    expected = np.interp(at.clip(0, length - 1), np.arange(length), maps[0].astype(float))
    m = torch.from_numpy(maps).to(device)
    found = [reference.resize(m, (out,), corners)[0]]
    if not corners:
        found.append(ops.resize_normalize(m, (out,), normalize=False)[0])
    else:
        low, high = expected.min(), expected.max()
        masks = ops.mask_images(torch.ones(1, 1, out, device=device), m[None])[0, 0]
        found.append(masks * (high - low + 1e-8) + low)
    for values in found:
        assert np.abs(values.cpu().numpy() - expected).max() < 1e-6


def test_preparation_of_a_long_frame(device):
    """Centres of pixels far from the frame's edge."""
    W = 60001
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, W, 3), dtype=np.uint8))
    got = ops.preprocess(frames.to(device), (1, 40000), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).cpu()[0, :, 0]
    x = np.arange(40000)
    centre, reach = (x + 0.5) * W / 40000, W / 40000
    places = np.floor(centre)[:, None] + np.arange(-3, 4)
    weights = np.maximum(0, 1 - np.abs(places + 0.5 - centre[:, None]) / reach) * ((places >= 0) & (places < W))
    values = frames[0, 0].numpy()[places.clip(0, W - 1).astype(int)] / 255
    expected = (values * weights[..., None]).sum(1) / weights.sum(1)[:, None]
    assert np.abs(got.T.numpy() - expected).max() < 1e-5


HUGE = 2**62
MAPS = torch.rand(1, 4, 4)


@pytest.mark.parametrize(
    "kind, call",
    [
        (ValueError, lambda: ops.tile_maps(MAPS, scale=HUGE)),
        (ValueError, lambda: ops.tile_maps(MAPS, columns=HUGE)),
        (ValueError, lambda: ops.tile_maps(MAPS, pad=(HUGE, 1))),
        (ValueError, lambda: ops.tile_maps(MAPS, columns=2**70)),
        (TypeError, lambda: ops.tile_maps(MAPS, columns=2.0)),
        (TypeError, lambda: ops.tile_maps(MAPS, scale=True)),
        (ValueError, lambda: ops.resize_normalize(MAPS, 2**31)),
        (ValueError, lambda: ops.resize_normalize(MAPS, HUGE)),
        (TypeError, lambda: ops.resize_normalize(MAPS, 5.0)),
        (TypeError, lambda: ops.resize_normalize(MAPS.to_sparse(), 5)),
        (TypeError, lambda: ops.resize_normalize(torch.nested.nested_tensor([torch.rand(3, 3)]), 5)),
        (TypeError, lambda: ops.grad_cam(torch.rand(1, 2, 3, 3).to_sparse(), torch.rand(1, 2, 3, 3))),
        (TypeError, lambda: ops.overlay(FRAMES.to_sparse(), HEAT)),
        (TypeError, lambda: ops.overlay(FRAMES, HEAT, alpha="half")),
        (ValueError, lambda: ops.preprocess(FRAMES, 2**28, (0, 0, 0), (1, 1, 1))),
        (TypeError, lambda: ops.preprocess(FRAMES, 4, 0.5, 0.5)),
        (ValueError, lambda: ops.preprocess(FRAMES, 4, (0, 0, 0), (1, 1, 1), box=(0, 0, float("inf"), 4))),
        (torch.OutOfMemoryError, lambda: ops.resize_normalize(MAPS, (2**31 - 1, 2**31 - 1))),
        (torch.OutOfMemoryError, lambda: ops.grad_cam(MAPS[None], MAPS[None], (2**31 - 1, 2**31 - 1))),
    ],
)
def test_refused_in_one_sentence(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    words = str(caught.value)
    assert "\n" not in words and "csrc" not in words and ".h" not in words and len(words) > 20


def test_sizes_of_the_schema_itself_are_checked():
    """Past the Python function, where the numbers come straight from a caller."""
    colors = colormaps.table("gray")
    for numbers in ((HUGE, 2, 2, 1), (1, HUGE, 2, 1), (1, 2, HUGE, 1), (1, 2, 2, HUGE), (2**31 - 1,) * 4):
        with pytest.raises(RuntimeError, match="picture must have at most"):
            torch.ops.camfast.tile_maps(MAPS, colors, *numbers)
    with pytest.raises(RuntimeError, match="not enough memory"):
        torch.ops.camfast.resize_normalize(torch.rand(0, 2, 2, 2), [2**31 - 1] * 3)


def test_numpy_ints_are_sizes():
    for size in (np.int64(5), (np.int64(5), 5), [5, np.int32(5)]):
        assert ops.resize_normalize(MAPS, size).shape == (1, 5, 5)
    assert ops.tile_maps(MAPS, columns=np.int64(2), scale=np.int8(1)).shape == (8, 14, 3)


# Traces


class Drawn(torch.nn.Module):
    def __init__(self, colormap: str) -> None:
        super().__init__()
        self.colormap = colormap

    def forward(self, frames, heat):
        return ops.overlay(frames, heat, self.colormap)


def _faked(module):
    with FakeTensorMode() as mode:
        drawn = module(mode.from_tensor(FRAMES), mode.from_tensor(HEAT))
    return lambda frames, heat: None if drawn.shape == frames.shape else drawn


TRACES = {
    "export": lambda m: torch.export.export(m, (FRAMES, HEAT), strict=False).module(),
    "strict export": lambda m: torch.export.export(m, (FRAMES, HEAT), strict=True).module(),
    "make_fx": lambda m: make_fx(m)(FRAMES, HEAT),
    "fake make_fx": lambda m: make_fx(m, tracing_mode="fake")(FRAMES, HEAT),
    "symbolic make_fx": lambda m: make_fx(m, tracing_mode="symbolic")(FRAMES, HEAT),
    "compile": lambda m: torch.compile(m, fullgraph=True, backend="aot_eager"),
    "fake": _faked,
}


@pytest.mark.parametrize("known", [False, True], ids=["first use", "used before"])
@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("colormap", ["jet", "plasma"])
def test_a_trace_leaves_no_stand_in_for_colours(trace, colormap, known, monkeypatch):
    monkeypatch.setattr(colormaps, "_on_device", {})
    if known:
        ops.overlay(FRAMES, HEAT, colormap)
    drawn = TRACES[trace](Drawn(colormap))(FRAMES, HEAT)
    plain = ops.overlay(FRAMES, HEAT, colormap)
    assert type(plain) is torch.Tensor
    assert all(type(kept) is torch.Tensor for kept in colormaps._on_device.values())
    assert drawn is None or torch.equal(drawn, plain)


class Resized(torch.nn.Module):
    def forward(self, maps):
        return ops.resize_normalize(maps, (9, 9)), ops.tile_maps(maps[:, 0])


@pytest.mark.parametrize("strict", [False, True])
def test_exports_of_any_number_of_images(strict):
    batch = {0: torch.export.Dim("n", min=2, max=64)}
    exported = torch.export.export(
        Resized(), (torch.rand(4, 3, 4, 4),), dynamic_shapes=(batch,), strict=strict
    ).module()
    for n in (2, 3, 5, 9, 10, 17):
        maps = torch.rand(n, 3, 4, 4)
        for found, expected in zip(exported(maps), Resized()(maps), strict=True):
            assert torch.equal(found, expected)


# Derivatives


@pytest.mark.parametrize("op", [*FAMILY, "eigen_cam", "resize_normalize", "mask_images"])
def test_forward_derivatives(op):
    A, second = Sample(2, 4, (5, 4)).tensors("cam" if op == "cam" else "grad_cam", torch.float64)
    A = A + torch.linspace(0, 0.3, A.numel(), dtype=A.dtype).reshape(A.shape)  # no two alike: a tie is a kink
    calls = {
        "resize_normalize": lambda a: ops.resize_normalize(a, 9),
        "mask_images": lambda a: ops.mask_images(second[:, :3, :4, :3], a),
        "eigen_cam": lambda a: ops.eigen_cam(a, 9),
    }
    run = calls.get(op, lambda a: getattr(ops, op)(a, second, 9))
    v = torch.randn(A.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    value, along = torch.func.jvp(run, (A,), (v,))
    torch.testing.assert_close(value, run(A))
    torch.testing.assert_close(along, (run(A + 1e-6 * v) - run(A - 1e-6 * v)) / 2e-6, rtol=1e-5, atol=1e-6)
    assert along.any()


def test_a_forward_derivative_of_a_gradient():
    A, G = Sample(1, 3, (4, 4)).tensors("layer_cam", torch.float64)
    loss = lambda a: ops.layer_cam(a, G, 6).square().sum()  # noqa: E731
    hessian = torch.func.jacfwd(torch.func.grad(loss))(A)
    expected = torch.autograd.functional.hessian(loss, A)
    torch.testing.assert_close(hessian, expected)


FORKED = """
import os, sys, torch, warnings
from camfast import ops
torch.set_num_threads(4)
ops.resize_normalize(torch.rand(64, 8, 8), 224)
pid = os.fork()
if not pid:
    if sys.argv[1] == "one":
        torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ops.resize_normalize(torch.rand(1, 4, 4), 5)
    os._exit(any("forked" in str(w.message) for w in said))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not os.path.exists("/proc/self/task"), reason="no fork, or no /proc")
@pytest.mark.parametrize("threads, warned", [("several", "1"), ("one", "0")])
def test_a_fork_after_openmp_is_said(threads, warned):
    done = run_python("-W", "ignore", "-c", FORKED, threads, timeout=120)
    assert done.stdout.strip() == warned, done.stderr
