"""Views of pictures: flips, crops and scales, of images and of heat alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import images

from camfast.losses import View

X = images(2, size=(32, 40))


def test_views_are_flips_cuts_and_scales():
    assert torch.equal(View()(X), X)
    torch.testing.assert_close(View(mirrored=True)(X), X.flip(-1))
    torch.testing.assert_close(View((0.25, 0.5, 0.75, 1))(X), X[..., 16:, 10:30])
    for size in ((16, 20), (48, 60), (13, 50)):
        expected = F.interpolate(X, size, mode="bilinear", antialias=True)
        torch.testing.assert_close(View(size=size)(X), expected, rtol=1e-4, atol=1e-4)
    both = View((0.25, 0.5, 0.75, 1), True, 8)(X)
    expected = F.interpolate(X[..., 16:, 10:30].flip(-1), (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(both[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=0.1)


def test_the_same_view_of_pictures_of_other_sizes():
    """A coarse map's window is the fine one's: heat at the layer's size moves with the images."""
    view = View((0.25, 0.5, 0.75, 1), mirrored=True)
    fine = X.repeat_interleave(4, -1).repeat_interleave(4, -2)
    torch.testing.assert_close(F.avg_pool2d(view(fine), 4), view(X))
    assert view(X[:, 0]).shape == (2, 16, 20) and view(X, (5, 7)).shape == (2, 3, 5, 7)


def test_gradients_and_dtypes():
    x = torch.rand(1, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(View((0.1, 0.2, 0.8, 0.9), True, 4), x)
    assert View(size=8)(X.bfloat16()).dtype == torch.bfloat16 and View(size=8)(X.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(View(mirrored=True)(X), X.flip(-1))


def test_views_by_chance():
    generator = torch.Generator().manual_seed(0)
    views = [View.random((0.3, 0.6), generator=generator) for _ in range(200)]
    sides = [(right - left, bottom - top) for left, top, right, bottom in (view.window for view in views)]
    assert all(0.3 - 1e-9 <= w * h <= 0.6 + 1e-9 and abs(w - h) < 1e-9 for w, h in sides)
    assert 60 < sum(view.mirrored for view in views) < 140 and len(set(views)) == 200
    assert View.random(generator=torch.Generator().manual_seed(3)) == View.random(
        generator=torch.Generator().manual_seed(3)
    )
    assert View.random((1, 1), mirror=0, size=7)(X).shape == (2, 3, 7, 7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: View((0.5, 0, 0.2, 1)), ValueError, r"window must lie in \[0, 1\], left before right"),
        (lambda: View((0, 0, 2, 1)), ValueError, r"window must lie in \[0, 1\]"),
        (lambda: View((0, 1)), ValueError, "window must be left, top, right, bottom"),
        (lambda: View.random((0, 1)), ValueError, "area must be least and greatest share"),
        (lambda: View()(X.long()), TypeError, "pictures must be a floating tensor"),
        (lambda: View()(X[0, 0]), ValueError, r"pictures must be \[..., H, W\], got \[32, 40\]"),
    ],
)
def test_what_is_no_view(call, error, message):
    with pytest.raises(error, match=message):
        call()
