"""``ops.linear_imputation``: the CPU kernel against the plain solver, sizes and masks at the edges, values that are not finite."""

from __future__ import annotations

import os

import pytest
import torch
from interpreter import run_python
from torch import Tensor

from camfast import ops
from camfast.ops import reference

SIZES = [
    (1, 1),
    (1, 2),
    (1, 37),
    (41, 1),
    (2, 2),
    (3, 5),
    (4, 4),
    (5, 4),
    (15, 16),
    (16, 17),
    (31, 33),
    (30, 62),
    (64, 65),
    (97, 50),
]
TIGHT = 1e-5


def made(size: tuple[int, int], channels: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and masks: dots, stripes, a block, all but a pixel, nothing, everything."""
    rng = torch.Generator().manual_seed(seed)
    h, w = size
    removed = torch.rand(6, h, w, generator=rng) < 0.6
    removed[1] = (torch.arange(w) % 5 > 0)[None]
    removed[2] = False
    removed[2, h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    removed[3] = True
    removed[3, h // 3, w // 2] = False
    removed[4], removed[5] = False, True
    return torch.randn(6, channels, h, w, generator=rng), removed


def exact(images: Tensor, removed: Tensor) -> Tensor:
    return reference.linear_imputation(images.double(), removed, None, 1e-10)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_plain_solver(size):
    images, removed = made(size)
    expected = exact(images, removed)
    found = ops.linear_imputation(images, removed, tolerance=TIGHT)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    loose = ops.linear_imputation(images, removed)
    torch.testing.assert_close(loose.double(), expected, rtol=0, atol=6e-3)
    left = ~removed[:, None].expand_as(images)
    assert torch.equal(loose[left], images[left])


def test_a_large_mask_of_a_photographs_size():
    images, removed = made((224, 224), channels=3)
    found = ops.linear_imputation(images, removed, tolerance=TIGHT)
    torch.testing.assert_close(found.double(), exact(images, removed), rtol=0, atol=2e-4)


def test_constant_pictures_stay_constant():
    """Also where a single pixel is left far from most others: its value spreads over the picture."""
    _, removed = made((75, 120))
    images = torch.full((6, 1, 75, 120), 3.5)
    torch.testing.assert_close(ops.linear_imputation(images, removed, tolerance=TIGHT), images, rtol=0, atol=1e-4)


def test_what_removed_pixels_held_does_not_count():
    images, removed = made((40, 23))
    spoilt = images.masked_fill(removed[:, None], torch.nan)
    expected, found = ops.linear_imputation(images, removed), ops.linear_imputation(spoilt, removed)
    assert torch.equal(found[:5], expected[:5])
    assert found[5].isnan().all()  # nothing else is left


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_stays_in_its_plane(bad, dtype):
    images, removed = made((33, 50), channels=3)
    images, removed = images[:4].to(dtype), removed[:4]
    removed[:, 7, 9] = False
    expected = ops.linear_imputation(images, removed)
    spoilt = images.clone()
    spoilt[1, 2, 7, 9] = bad
    found = ops.linear_imputation(spoilt, removed)
    assert found[1, 2][removed[1]].isnan().all() and torch.equal(
        found[1, 2][~removed[1]].isnan(), spoilt[1, 2][~removed[1]].isnan()
    )
    others = torch.ones(4, 3, dtype=torch.bool)
    others[1, 2] = False
    torch.testing.assert_close(found[others], expected[others], rtol=0, atol=0 if dtype == torch.float32 else 5e-3)


def test_numbers_near_the_largest_end():
    """Products overflow: no answer is promised, but an end, and nothing reaches the next image."""
    images, removed = made((60, 60))
    expected = ops.linear_imputation(images, removed)
    for size in (1e30, 3e38):
        huge = images.clone()
        huge[0] = torch.where(images[0] > 0, size, -size)
        found = ops.linear_imputation(huge, removed)
        assert torch.equal(found[1:], expected[1:])
        assert torch.equal(found[0][:, ~removed[0]], huge[0][:, ~removed[0]])


def test_noise_is_added_where_pixels_are_removed():
    images, removed = made((29, 31))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    for dtype, off in ((torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 0.04)):
        given = images.to(dtype)
        clean, noisy = ops.linear_imputation(given, removed), ops.linear_imputation(given, removed, noise)
        assert noisy.dtype == dtype
        expected = torch.where(removed[:, None], clean.double() + noise, given.double())
        torch.testing.assert_close(noisy.double(), expected, rtol=0, atol=off)


def test_layouts():
    images, removed = made((31, 26), channels=3)
    expected = ops.linear_imputation(images, removed, images)
    last = images.contiguous(memory_format=torch.channels_last)
    strided, mask = torch.stack([images, images], -1)[..., 1], removed.transpose(1, 2).contiguous().transpose(1, 2)
    shifted = torch.cat([images.new_zeros(1), images.flatten()])[1:].view(images.shape)
    for given in (last, strided, shifted):
        assert torch.equal(ops.linear_imputation(given, mask, given), expected)
    one = images[:1].expand(6, -1, -1, -1)
    assert torch.equal(ops.linear_imputation(one, removed), ops.linear_imputation(one.contiguous(), removed))


def test_empty():
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)):
        images = torch.rand(shape)
        removed = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
        assert ops.linear_imputation(images, removed).shape == shape
        assert ops.linear_imputation(images.double(), removed).shape == shape


def test_planes_do_not_depend_on_each_other_or_on_threads():
    images, removed = made((48, 40), channels=5)
    expected = ops.linear_imputation(images, removed)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(ops.linear_imputation(images, removed), expected)
            assert torch.equal(ops.linear_imputation(images.flip(0), removed.flip(0)).flip(0), expected)
            assert torch.equal(ops.linear_imputation(images[2:3, 3:4], removed[2:3]), expected[2:3, 3:4])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_older_processors(capability, tmp_path):
    """In a process that may use fewer instructions: the same within rounding."""
    images, removed = made((45, 70), seed=3)
    torch.save((images, removed, ops.linear_imputation(images, removed, tolerance=TIGHT)), tmp_path / "expected.pt")
    code = (
        "import sys, torch; from camfast import ops; images, removed, expected = torch.load(sys.argv[1]);"
        "torch.testing.assert_close(ops.linear_imputation(images, removed, tolerance=1e-5), expected, rtol=0, atol=5e-5)"
    )
    environment = {**os.environ, "CAMFAST_CPU_CAPABILITY": capability}
    result = run_python("-c", code, tmp_path / "expected.pt", env=environment)
    assert result.returncode == 0, result.stderr


def test_registered_and_compiled():
    images, removed = made((12, 9))
    op = torch.ops.camfast.linear_imputation.default
    torch.library.opcheck(op, (images, removed, images, 0.01))
    torch.library.opcheck(op, (images, removed))
    compiled = torch.compile(lambda i, r: ops.linear_imputation(i, r), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, removed), ops.linear_imputation(images, removed))
    assert not ops.linear_imputation(images.clone().requires_grad_(), removed).requires_grad


def test_wrong_arguments_are_said():
    images, removed = made((8, 8))
    for error, match, call in (
        (TypeError, "images must be a float64", lambda: ops.linear_imputation(images.int(), removed)),
        (
            TypeError,
            "removed must be a bool tensor, got a torch.uint8",
            lambda: ops.linear_imputation(images, removed.byte()),
        ),
        (TypeError, "removed must be a bool tensor, got list", lambda: ops.linear_imputation(images, [])),
        (ValueError, r"got \[2, 8, 8\] and", lambda: ops.linear_imputation(images[0], removed)),
        (ValueError, r"got \[6, 2, 8, 8\] and \[5, 8, 8\]", lambda: ops.linear_imputation(images, removed[:5])),
        (ValueError, r"noise must be as large as", lambda: ops.linear_imputation(images, removed, images[:, :1])),
        (ValueError, "one device", lambda: ops.linear_imputation(images, removed.to("meta"))),
        (ValueError, "tolerance must be positive, got 0", lambda: ops.linear_imputation(images, removed, None, 0.0)),
        (
            ValueError,
            "tolerance must be positive, got nan",
            lambda: ops.linear_imputation(images, removed, None, float("nan")),
        ),
    ):
        with pytest.raises(error, match=match):
            call()
    op = torch.ops.camfast.linear_imputation
    for arguments in (
        (images.double(), removed),
        (images, removed.byte()),
        (images, removed[1:]),
        (images, removed, images[:2]),
    ):
        with pytest.raises(RuntimeError, match=r"must be"):
            op(*arguments)
