"""The ops' derivatives: against differences, the reference's autograd and each other; twice; of maps that say nothing."""

from __future__ import annotations

import functools

import pytest
import torch
from samples import DTYPES, FAMILY, LAYOUTS, Sample
from torch import Tensor

from camfast import ops
from camfast.ops import reference


@pytest.mark.parametrize("op", FAMILY)
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize(
    "sample",
    [Sample(2, 5, (3, 4), (7, 6)), Sample(1, 4, (3, 3), K=2), Sample(2, 3, (5,), 4), Sample(1, 3, (2, 3, 2), 4)],
    ids=str,
)
def test_gradcheck(op, normalize, sample, device):
    A, second = sample.tensors(op, torch.float64, device=device)
    inputs = (A.requires_grad_(), second.requires_grad_())
    call = functools.partial(getattr(ops, op), size=sample.size, normalize=normalize)
    assert torch.autograd.gradcheck(call, inputs, atol=1e-5)


@pytest.mark.parametrize("op", FAMILY)
def test_gradients_equal_the_references(op, device):
    A, second = Sample(2, 24, (6, 5), (13, 9), K=2).tensors(op, torch.float64, device=device)
    down = torch.randn(2, 2, 13, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).to(device)
    grads = []
    for module in (ops, reference):
        inputs = [A.clone().requires_grad_(), second.clone().requires_grad_()]
        grads.append(torch.autograd.grad(getattr(module, op)(*inputs, (13, 9)), inputs, down))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("relu", [False, True])
def test_resize_normalize_gradcheck(relu, device):
    maps = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(8)).to(device)
    for size, normalize in [((6, 9), True), ((2, 3), True), ((6, 9), False)]:
        call = functools.partial(torch.ops.camfast.resize_normalize, size=size, normalize=normalize, relu=relu)
        assert torch.autograd.gradcheck(call, (maps.requires_grad_(),))


@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize("sample", [Sample(1, 3, (3, 2), (4, 5)), Sample(1, 5, (3,), K=2)], ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_double_backward(op, sample, normalize, device):
    inputs = tuple(tensor.requires_grad_() for tensor in sample.tensors(op, torch.float64, device=device))
    call = functools.partial(getattr(ops, op), size=sample.size, normalize=normalize)
    assert torch.autograd.gradgradcheck(call, inputs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
def test_resize_normalize_double_backward(normalize, relu, device):
    maps = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8)).to(device)
    call = functools.partial(torch.ops.camfast.resize_normalize, size=(5, 6), normalize=normalize, relu=relu)
    assert torch.autograd.gradgradcheck(call, (maps.requires_grad_(),), atol=1e-4, rtol=1e-3)


def derivatives(
    op: str, A: Tensor, second: Tensor, size, normalize: bool, down: Tensor, parts: bool
) -> tuple[Tensor, ...]:
    """By the kernels, or in parts, as where they are differentiated in their turn."""
    inputs = [A.detach().requires_grad_(), second.detach().requires_grad_()]
    return torch.autograd.grad(getattr(ops, op)(*inputs, size, normalize), inputs, down, create_graph=parts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", FAMILY)
def test_derivatives_by_kernels_and_in_parts(op, dtype, layout, device):
    samples = [
        Sample(3, 40, (7, 7), (33, 50)),
        Sample(2, 17, (6, 5), K=3),
        Sample(2, 5, (9,), 4),
        Sample(1, 4, (2, 3, 2), 5),
    ]
    for sample in [*samples, Sample(2, 8, (1, 1), 5)]:
        A, second = sample.tensors(op, dtype, layout, device)
        for normalize in (True, False):
            heat = getattr(ops, op)(A, second, sample.size, normalize)
            down = torch.randn(heat.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(heat)
            kernels, parts = (derivatives(op, A, second, sample.size, normalize, down, p) for p in (False, True))
            for ours, theirs in zip(kernels, parts, strict=True):
                assert ours.dtype == dtype and ours.shape == theirs.shape and not ours.requires_grad
                limit = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
                scale = float(theirs.double().abs().max())
                torch.testing.assert_close(ours.double(), theirs.double().detach(), rtol=0, atol=limit * scale + 1e-12)


@pytest.mark.parametrize("op", FAMILY)
def test_derivatives_of_constant_and_blank_maps_are_zero(op, device):
    for value, weight in ((1.0, 1.0), (1.0, -1.0), (0.0, 1.0)):
        A = torch.full((2, 3, 4, 4), value, device=device, requires_grad=True)
        second = torch.full((2, 3) if op == "cam" else (2, 3, 4, 4), weight, device=device, requires_grad=True)
        heat = getattr(ops, op)(A, second, 9)
        for graph in (False, True):
            found = torch.autograd.grad(heat.sum(), (A, second), retain_graph=True, create_graph=graph)
            assert not any(gradient.any() for gradient in found)


def test_derivatives_of_unknown_values_stay_in_their_image(device):
    A, G = Sample(3, 6, (4, 5), 9).tensors("grad_cam", device=device)
    A[1, 2, 3, 1] = torch.nan
    found = derivatives("grad_cam", A, G, 9, True, torch.ones(3, 9, 9, device=device), False)
    assert all(gradient[[0, 2]].isfinite().all() for gradient in found)
    assert torch.autograd.grad(ops.grad_cam(A.requires_grad_(), G, 9).sum(), A)[0][1].isnan().any()


@pytest.mark.parametrize("op", FAMILY)
def test_no_targets_and_no_images(op, device):
    for shape, targets in (((2, 3, 4, 4), 0), ((0, 3, 4, 4), 2), ((0, 3, 4, 4), None)):
        lead = shape[:1] if targets is None else (shape[0], targets)
        A = torch.ones(shape, device=device, requires_grad=True)
        second = torch.ones(*lead, *(shape[1:2] if op == "cam" else shape[1:]), device=device, requires_grad=True)
        found = torch.autograd.grad(getattr(ops, op)(A, second, 5).sum(), (A, second))
        assert [gradient.shape for gradient in found] == [A.shape, second.shape] and not found[0].any()


def test_derivative_ops(device):
    A, G = Sample(2, 6, (4, 3), K=2).tensors("grad_cam", device=device)
    r = torch.randn(2, 2, 4, 3, device=device)
    tests = ("test_schema", "test_faketensor")
    for rule in range(1, 7):
        torch.library.opcheck(torch.ops.camfast.cam_backward.default, (r, A, G, rule), test_utils=tests)
    resized = torch.ops.camfast.resize_normalize_backward.default
    torch.library.opcheck(resized, (torch.randn(4, 9, 8, device=device), r.flatten(0, 1), True, True), test_utils=tests)
    with pytest.raises(RuntimeError, match="rule must be from 0 to 6, got 7"):
        torch.ops.camfast.cam_backward(r, A, G, 7)
    with pytest.raises(RuntimeError, match=r"grad must be of maps of activations \[2, 6, 4, 3\]"):
        torch.ops.camfast.cam_backward(r[..., 0], A, G, 1)
    with pytest.raises(RuntimeError, match="grad must be of maps"):
        resized(torch.zeros(3, 9, 8, device=device), r.flatten(0, 1), True, True)
