"""Grids: the fused op against its reference and torchvision's make_grid; labels, files and figures."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast import ops
from camfast.ops import colormaps, reference

GRAYS = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 3)
SHAPES = [(1, 1, 1), (5, 7, 7), (13, 9, 23), (64, 28, 28), (3, 120, 131), (4, 1, 40)]


def awkward(shape, dtype, device="cpu"):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if shape[0] > 2:
        maps[0, 0, 0] = torch.nan
        maps[1] = 4.0  # constant
        maps[2, 0, -1], maps[2, 0, 0] = torch.inf, -torch.inf
    return maps.to(dtype).to(device)


def assert_same_shades(actual, expected):
    """Equal up to a value on the edge between two shades, which different rounding may put on either side."""
    assert actual.shape == expected.shape and actual.dtype == torch.uint8
    difference = (actual.cpu().int() - expected.cpu().int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_op_equals_reference(shape, dtype, device):
    maps = awkward(shape, dtype, device)
    for columns, pad, scale in [(1, (0, 0), 1), (3, (2, 2), 1), (8, (13, 1), 3)]:
        for limits in (None, torch.tensor([-0.5, 1.0], device=device)):
            actual = ops.tile_maps(maps, columns, pad, GRAYS, limits, scale, background=200)
            expected = reference.tile_maps(maps, GRAYS.to(device), columns, *pad, scale, limits, 200)
            assert_same_shades(actual, expected)


@pytest.mark.parametrize("layout", ["transposed", "strided", "misaligned"])
def test_layouts(layout, device):
    maps = awkward((6, 9, 9), torch.float32, device)
    wide = torch.zeros(6, 9, 18, device=device)
    wide[..., ::2] = maps
    flat = torch.zeros(maps.numel() + 1, device=device)
    flat[1:] = maps.flatten()
    given = {"transposed": maps.mT.contiguous().mT, "strided": wide[..., ::2], "misaligned": flat[1:].view(6, 9, 9)}
    assert_same_shades(ops.tile_maps(given[layout]), reference.tile_maps(maps, GRAYS.to(device), 3))


def test_op_is_registered_well():
    maps = torch.randn(5, 4, 6)
    torch.library.opcheck(torch.ops.camfast.tile_maps.default, (maps, GRAYS, 3, 2, 1, 2, None, 0))
    compiled = torch.compile(lambda m: ops.tile_maps(m, 3, limits=(-1, 1)), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps), ops.tile_maps(maps, 3, limits=(-1, 1)))


@pytest.mark.parametrize("each", [True, False])
def test_equals_make_grid(each):
    make_grid = pytest.importorskip("torchvision.utils").make_grid
    maps = torch.randn(11, 6, 7)
    expected = make_grid(maps[:, None], 4, 2, normalize=True, scale_each=each, pad_value=1)
    expected = expected.mul(255).add(0.5).clamp(0, 255).byte().permute(1, 2, 0)
    assert_same_shades(camfast.grid(maps, normalize="each" if each else "all").tensor, expected)


def test_square_unless_told_otherwise():
    for count in range(1, 40):
        grid = camfast.grid(torch.randn(count, 2, 2))
        assert grid.columns == math.ceil(math.sqrt(count))
        assert (grid.rows - 1) * grid.columns < count <= grid.rows * grid.columns
        assert grid.shape == (grid.rows * 4 + 2, grid.columns * 4 + 2, 3)
    assert camfast.grid(torch.randn(6, 2, 2), columns=6).rows == 1


def test_ranges_and_colours():
    maps = torch.stack([torch.full((2, 2), float(i)) for i in range(4)])
    shades = camfast.grid(maps, 4, "all", pad=0).tensor[0, ::2, 0]
    assert shades.tolist() == [0, 85, 170, 255]
    shades = camfast.grid(maps, 4, (1, 2), pad=0).tensor[0, ::2, 0]
    assert shades.tolist() == [0, 0, 255, 255]
    colored = camfast.grid(maps, 4, "all", "viridis", pad=0).tensor[0, ::2]
    assert torch.equal(colored, colormaps.table("viridis")[[0, 85, 170, 255]])


def test_inputs_of_every_kind():
    maps = torch.randn(2, 3, 4, 5)
    expected = camfast.grid(maps.reshape(6, 4, 5)).tensor
    assert torch.equal(camfast.grid(maps).tensor, expected)
    assert torch.equal(camfast.grid(maps.numpy()).tensor, expected)
    assert torch.equal(camfast.grid(list(maps.reshape(6, 4, 5))).tensor, expected)
    assert torch.equal(camfast.grid(maps.clone().requires_grad_()).tensor, expected)
    assert camfast.grid(maps[0, 0]).shape == (8, 9, 3)
    assert camfast.grid(torch.tensor([[0, 9], [3, 1]])).tensor[2, 3].tolist() == [255] * 3
    assert camfast.grid(torch.eye(3) > 0).tensor[2, 2].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(0, 3, 3),), ValueError, "not empty"),
        ((torch.zeros(3),), ValueError, r"\[M, h, w\]"),
        (([torch.zeros(2, 2), torch.zeros(3, 3)],), ValueError, "one size"),
        (([],), ValueError, "no maps"),
        ((torch.zeros(2, 2, dtype=torch.complex64),), TypeError, "real"),
        (("maps",), TypeError, "got str"),
        ((torch.zeros(2, 2), 0), ValueError, "columns"),
        ((torch.zeros(2, 2), 1, "none"), ValueError, "normalize must be"),
        ((torch.zeros(2, 2), 1, (1, 1)), ValueError, "low below high"),
        ((torch.zeros(2, 2), 1, "each", "nocolour"), ValueError, "unknown colormap"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        camfast.grid(*arguments)


def test_wrong_number_of_labels():
    with pytest.raises(ValueError, match="one text for each of 4"):
        camfast.grid(torch.zeros(4, 8, 8), labels=["a"])


def test_labels_are_written_above_their_tiles():
    maps = torch.zeros(4, 20, 30)
    plain = camfast.grid(maps, labels=[""] * 4)
    grid = camfast.grid(maps, labels=["", "17", "", ""])
    changed = (grid.tensor != plain.tensor).any(-1)
    top = plain.shape[0] - 2 * 20
    assert changed.any()
    assert not changed[top // 3 :].any()  # only above the first row
    assert not changed[:, : 30 + 2].any()  # only above the second column
    assert not (camfast.grid(maps, labels=True).tensor[:13, :32] == plain.tensor[:13, :32]).all()


def test_png_file_and_figure(tmp_path):
    grid = camfast.grid(torch.randn(5, 6, 6), colormap="turbo")
    assert np.array_equal(np.array(Image.open(io.BytesIO(grid.png()))), grid.tensor.numpy())
    assert grid._repr_png_() == grid.png()
    assert np.array_equal(np.array(Image.open(grid.save(tmp_path / "deep" / "grid.png"))), np.asarray(grid))
    pytest.importorskip("matplotlib")
    figure = grid.figure()
    figure.savefig(tmp_path / "figure.png")
    drawn = np.array(Image.open(tmp_path / "figure.png").convert("RGB"))
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(grid.shape[1] / grid.shape[0], rel=0.02)
    assert len(figure.axes[0].images) == 1
