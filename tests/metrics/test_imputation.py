"""Noisy linear imputation equals a sparse direct solver's, whatever is removed."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camfast.metrics import noisy_linear_imputation

road = pytest.importorskip("pytorch_grad_cam.metrics.road")


def blobs(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=generator)
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]


def direct(images: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """The same system by SciPy's sparse LU."""
    imputer = road.NoisyLinearImputer(noise=0)
    pairs = zip(images, removed, strict=True)
    return torch.stack([imputer(image, (~gone).float()) for image, gone in pairs])


@pytest.mark.parametrize("size", [(32, 32), (17, 23), (9, 64), (3, 5), (56, 40)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_equals_a_direct_solver(size, share):
    images = models.images(3, size=size)
    heat = blobs(3, size)
    removed = heat >= heat.flatten(1).quantile(1 - share, dim=1)[:, None, None]
    found = noisy_linear_imputation(images, removed, 0.0, tolerance=1e-5)
    torch.testing.assert_close(found, direct(images, removed), rtol=0, atol=5e-5)
    default = noisy_linear_imputation(images, removed, 0.0)
    torch.testing.assert_close(default, direct(images, removed), rtol=0, atol=3e-3)  # a third of the noise


@pytest.mark.parametrize("seed", range(6))
def test_any_mask_is_solved(seed):
    """Single pixels, stripes, noise, all but one pixel."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 2, 30, 27, generator=generator)
    removed = torch.rand(4, 30, 27, generator=generator) < torch.rand(4, 1, 1, generator=generator)
    removed[1], removed[2] = torch.arange(27) % 3 > 0, True
    removed[2, 5, 7] = False
    found = noisy_linear_imputation(images, removed, 0.0, tolerance=1e-5)
    torch.testing.assert_close(found, direct(images, removed), rtol=0, atol=2e-4)


def test_equations_hold_at_every_removed_pixel():
    """Without another library: a removed pixel is the weighted mean of its neighbours inside the picture."""
    images = models.images(2, size=(20, 26)).double()
    removed = blobs(2, (20, 26)) > 0.4
    found = noisy_linear_imputation(images, removed, 0.0, tolerance=1e-9)
    padded, inside = F.pad(found, (1, 1, 1, 1)), F.pad(torch.ones(20, 26).double(), (1, 1, 1, 1))
    mean, weights = torch.zeros_like(found), torch.zeros(20, 26).double()
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            weight = {0: 0.0, 1: 1 / 6, 2: 1 / 12}[abs(dy - 1) + abs(dx - 1)]
            mean += weight * padded[:, :, dy : dy + 20, dx : dx + 26]
            weights += weight * inside[dy : dy + 20, dx : dx + 26]
    off = (found - mean / weights).abs()
    assert float(off[removed[:, None].expand_as(off)].max()) < 1e-8
    assert torch.equal(found[~removed[:, None].expand_as(off)], images[~removed[:, None].expand_as(off)])
    assert found.dtype == torch.float64


def test_nothing_and_everything_removed():
    images = models.images(2, size=(12, 12))
    removed = torch.stack([torch.zeros(12, 12), torch.ones(12, 12)]).bool()
    found = noisy_linear_imputation(images, removed, 0.0)
    assert torch.equal(found[0], images[0])
    torch.testing.assert_close(found[1], images[1].mean((1, 2), keepdim=True).expand_as(images[1]))


def test_noise_is_seeded_and_of_its_size():
    images, removed = models.images(2, size=(64, 64)), torch.zeros(2, 64, 64, dtype=torch.bool)
    removed[:, 8:56, 8:56] = True
    clean = noisy_linear_imputation(images, removed, 0.0)
    draw = lambda seed: noisy_linear_imputation(images, removed, 0.1, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    noise = (draw(0) - clean)[removed[:, None].expand_as(images)]
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert abs(float(noise.std()) - 0.1) < 0.003 and abs(float(noise.mean())) < 0.005
    assert torch.equal(draw(0)[:, :, :8], images[:, :, :8])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype):
    images = models.images(1, size=(16, 16)).to(dtype)
    removed = blobs(1, (16, 16)) > 0.5
    found = noisy_linear_imputation(images, removed, 0.0)
    assert found.dtype == dtype
    expected = noisy_linear_imputation(images.float(), removed, 0.0)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


def test_wrong_arguments_are_said():
    images, removed = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    with pytest.raises(TypeError, match="images must be a float64, .* got a torch.uint8 tensor"):
        noisy_linear_imputation(images.byte(), removed)
    with pytest.raises(TypeError, match="removed must be a bool tensor, got a torch.float32 tensor"):
        noisy_linear_imputation(images, removed.float())
    with pytest.raises(ValueError, match=r"got \[2, 3, 8, 8\] and \[2, 8, 9\]"):
        noisy_linear_imputation(images, torch.zeros(2, 8, 9, dtype=torch.bool))
    assert noisy_linear_imputation(images[:0], removed[:0]).shape == (0, 3, 8, 8)


def test_percentiles_are_numpys():
    from camfast.metrics.removal import removed_pixels

    heat = blobs(3, (21, 19))
    removed = removed_pixels(heat, (0, 12.5, 50, 80, 100))
    for row, percentile in zip(removed, (0, 12.5, 50, 80, 100), strict=True):
        for plane, gone in zip(heat.numpy(), row.numpy(), strict=True):
            assert (gone == (plane >= np.percentile(plane, percentile))).mean() > 0.997  # a rank apart at most
