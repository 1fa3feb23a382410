"""``ops.mask_images`` against its reference and against what pytorch-grad-cam and torchcam feed their models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import DTYPES
from torch import Tensor

from camfast import ops
from camfast.ops import reference, registration

# images [N, P, *size], maps [N, C, *map]
SHAPES = [
    ((1, 3, 60, 50), (1, 9, 7, 7)),
    ((2, 3, 33, 47), (2, 5, 14, 9)),
    ((2, 1, 5, 6), (2, 3, 5, 6)),
    ((1, 4, 9, 8), (1, 2, 20, 31)),  # down
    ((2, 2, 30), (2, 4, 7)),
    ((1, 3, 6, 7, 9), (1, 2, 3, 4, 5)),
    ((1, 3, 1, 4), (1, 2, 1, 1)),
    ((1, 3, 16, 1), (1, 2, 3, 3)),
]
WAYS = [(True, False), (False, True), (False, False), (True, True)]  # align_corners, scale_first
ATOL = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def made(shape: tuple[int, ...], maps: tuple[int, ...], dtype=torch.float32, device="cpu") -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
    return images.to(device), torch.randn(maps, generator=rng, dtype=torch.float64).to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("align_corners, scale_first", WAYS)
def test_equals_the_reference(align_corners, scale_first, dtype, device):
    for shape, grid in SHAPES:
        images, maps = made(shape, grid, dtype, device)
        actual = ops.mask_images(images, maps, align_corners, scale_first)
        expected = reference.mask_images(images.double(), maps.double(), align_corners, scale_first)
        assert actual.dtype == dtype and actual.is_contiguous()
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=ATOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_formats(dtype, device):
    for shape, grid in (SHAPES[1], SHAPES[5], ((2, 1, 8, 9), (2, 3, 4, 4))):
        images, maps = made(shape, grid, dtype, device)
        expected = ops.mask_images(images, maps)
        last = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
        result = ops.mask_images(images.contiguous(memory_format=last), maps.contiguous(memory_format=last))
        assert torch.equal(result, expected) and result.is_contiguous(memory_format=last)
        strided = torch.stack([images, images], -1)[..., 0]
        assert torch.equal(ops.mask_images(strided, maps.transpose(0, 1).contiguous().transpose(0, 1)), expected)
        shifted = torch.cat([images.new_zeros(1), images.flatten()])[1:].view(images.shape)
        assert torch.equal(ops.mask_images(shifted, maps), expected)


def test_equals_pytorch_grad_cams_inputs(device):
    images, maps = made(*SHAPES[0], device=device)
    large = torch.nn.UpsamplingBilinear2d(size=images.shape[2:])(maps)
    high, low = large.amax((2, 3), keepdim=True), large.amin((2, 3), keepdim=True)
    expected = images[:, None] * ((large - low) / (high - low + 1e-8))[:, :, None]
    torch.testing.assert_close(ops.mask_images(images, maps), expected.flatten(0, 1), rtol=0, atol=2e-6)


def test_corner_samples_decide_the_range(device):
    """Of 200 shapes, up and down, with aligned corners and without: the mask runs from 0 to 1."""
    rng = torch.Generator().manual_seed(3)
    for _ in range(200):
        h, w, H, W = (int(torch.randint(1, top, (1,), generator=rng)) for top in (12, 12, 40, 40))
        maps = torch.randn(1, 2, h, w, generator=rng, dtype=torch.float64).to(device)
        for align_corners in (True, False):
            masks = ops.mask_images(maps.new_ones(1, 1, H, W), maps, align_corners)
            large = F.interpolate(maps, (H, W), mode="bilinear", align_corners=align_corners)
            expected = reference.min_max(large, eps=1e-8)[0, :, None]
            torch.testing.assert_close(masks, expected, rtol=0, atol=1e-7)  # where the map is constant but for rounding


def test_edges(device):
    images, maps = made(*SHAPES[1], device=device)
    maps[0, 1], maps[0, 2, 0, 0], maps[1, 0, 3, 3] = 0, torch.nan, torch.inf
    actual = ops.mask_images(images, maps).unflatten(0, (2, 5))
    assert not actual[0, 1].any()
    assert actual[0, 2].isnan().all() and actual[1, 0].isnan().all()
    assert actual.isnan().flatten(2).any(2).sum() == 2
    for N, C in ((0, 3), (2, 0)):
        empty = ops.mask_images(torch.ones(N, 3, 6, 6, device=device), torch.ones(N, C, 2, 2, device=device))
        assert empty.shape == (0, 3, 6, 6)


def test_threads_do_not_change_the_images():
    images, maps = made((1, 3, 90, 80), (1, 1, 7, 7))
    expected = ops.mask_images(images, maps)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert torch.equal(ops.mask_images(images, maps), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("align_corners, scale_first", WAYS)
def test_gradcheck(align_corners, scale_first, device):
    images, maps = made((2, 2, 5, 6), (2, 2, 3, 4), torch.float64, device)
    inputs = (images.requires_grad_(), maps.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, m: ops.mask_images(x, m, align_corners, scale_first), inputs)


def test_opcheck_compile_and_fallback(device, monkeypatch):
    images, maps = made(*SHAPES[2], device=device)
    op = torch.ops.camfast.mask_images.default
    torch.library.opcheck(op, (images.requires_grad_(), maps.requires_grad_(), True, False))
    last = torch.randn(2, 3, 5, 6, device=device).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(op, (last, maps.detach(), False, True), test_utils=("test_schema", "test_faketensor"))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, m: ops.mask_images(x * 1, m) + 1, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for shape, grid in SHAPES[:2]:
        x, m = made(shape, grid, device=device)
        torch.testing.assert_close(compiled(x, m) - 1, ops.mask_images(x, m), rtol=0, atol=1e-6)
    monkeypatch.setattr(registration, "_warned_devices", set())
    with pytest.warns(UserWarning, match="reference runs instead"):
        found = op.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.MPS), last, maps.detach(), False, True)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, ops.mask_images(last, maps.detach(), False, True), rtol=0, atol=2e-6)


def test_errors_say_what_came(device):
    images, maps = made(*SHAPES[0], device=device)
    with pytest.raises(TypeError, match="images must be .*got a torch.uint8 tensor"):
        ops.mask_images(images.byte(), maps)
    with pytest.raises(TypeError, match="maps must be .*got list"):
        ops.mask_images(images, [maps])
    with pytest.raises(ValueError, match=r"as many images .*got \[1, 3, 60, 50\] and \[9, 7, 7\]"):
        ops.mask_images(images, maps[0])
    with pytest.raises(ValueError, match="must not be empty"):
        ops.mask_images(images, maps[..., :0])
    for bad in (maps.double(), maps[0], maps[:0]):
        with pytest.raises(RuntimeError):
            torch.ops.camfast.mask_images(images, bad)
