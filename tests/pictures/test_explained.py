"""Photographs with their heat, the line around what was seen, the strip below, and small pictures made large."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camfast import ops
from camfast.ops.colormaps import table
from camfast.pictures.explained import explained
from camfast.pictures.frames import LINE, draw, seen
from camfast.pictures.strips import below, enlarged, strip

WHOLE = (0.0, 0.0, 400.0, 300.0)


def photo(height=300, width=400):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_whole_photograph_has_no_line():
    heat = torch.rand(7, 7)
    bare = explained(photo(), heat, WHOLE, "tabby", 0.65, where="none")
    frames = torch.from_numpy(photo())[None]
    np.testing.assert_array_equal(bare, ops.overlay(frames, heat[None])[0])  # the look where none is asked for
    corner = explained(photo(), heat, WHOLE, "tabby", 0.65)
    rows, columns = np.nonzero((corner != bare).any(-1))
    assert rows.min() > 270 and columns.max() < 150


def test_the_strip_says_what_the_colours_are():
    heat, box = torch.rand(7, 7), (100.0, 50.0, 300.0, 250.0)
    picture = explained(photo(), heat, WHOLE, "tabby", 0.65, where="strip", ends=("0", "0.61"), notes=["grad_cam"])
    cut = explained(photo(), heat, box, "tabby", 0.65, where="strip", ends=("0", "0.61"), notes=["grad_cam"])
    assert picture.shape[1] == cut.shape[1] == 400 and cut.shape[0] > picture.shape[0] > 340  # one line more
    colors = {tuple(color) for color in table("inferno").tolist()}
    bar = [tuple(pixel) for pixel in picture[-12].tolist() if tuple(pixel) in colors]
    assert len(bar) > 250 and bar[0] == tuple(table("inferno")[0].tolist())
    assert (cut[45:50, 200] == LINE).any() and (cut[:40, 200] != LINE).any()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (8, 30), (300, 2)])
@pytest.mark.parametrize("where", ["corner", "strip"])
def test_small_photographs_are_enlarged_where_there_is_text(size, where):
    box = (size[1] * 0.1, size[0] * 0.1, size[1] * 0.9, size[0] * 0.9)
    picture = explained(photo(*size), torch.rand(3, 3), box, "a long name of a class", 0.5, where=where)
    assert max(picture.shape[:2]) >= 256
    assert explained(photo(*size), torch.rand(3, 3), box, "a", 0.5, where="none").shape == (*size, 3)


def test_enlarging_keeps_pixels_as_squares():
    frames = torch.from_numpy(photo(8, 6))[None]
    large = enlarged(frames, 100)
    assert large.shape == (1, 104, 78, 3) and torch.equal(large[:, ::13, ::13], frames)
    assert torch.equal(large[:, 12::13, 12::13], frames) and enlarged(large, 100) is large


def test_strips():
    one = strip(300, 14, "gray", ("least", "greatest"), [])
    three = strip(300, 14, "gray", ("least", "greatest"), ["tabby", "a line that is much too long " * 9], bold=True)
    assert one.shape[1] == three.shape[1] == 300 and three.shape[0] == one.shape[0] + 40
    assert below(photo(10, 300), one).shape == (10 + one.shape[0], 300, 3)
    assert strip(20, 14, "gray", ("least", "greatest"), ["x"]).shape[1] == 20  # no room for a bar


def test_boxes_beyond_the_frame():
    frames = torch.from_numpy(photo())[None]
    assert seen((-3.2, 10.0, 401.0, 290.4), 300, 400) == (0, 10, 400, 290)
    drawn = draw(frames, torch.rand(1, 7, 7), (-3.2, 10.0, 401.0, 290.4))
    assert (drawn[0, 9] == LINE).all() and (drawn[0, 290] == LINE).all() and not (drawn[0, 10] == LINE).all()
    assert torch.equal(draw(frames, torch.rand(1, 7, 7), (50.0, 10.0, 90.0, 290.0), alpha=0.0), frames)
