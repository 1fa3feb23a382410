"""Text on frames, and maps side by side."""

from __future__ import annotations

import pytest
import torch

from camfast.pictures import text


def test_side_by_side():
    overlays = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    picture = text.side_by_side(overlays)
    assert picture.shape == (2, 4, 15, 3)
    assert torch.equal(picture[1, :, 5:10], overlays[1, 1])
    assert torch.equal(text.side_by_side(overlays[0]), picture[0])
    with pytest.raises(ValueError, match="side|shape"):
        text.side_by_side(overlays[0, 0])


def test_legend_is_written_where_it_belongs():
    frame = torch.full((280, 500, 3), 200, dtype=torch.uint8)
    assert text.legend(frame, [("tabby, tabby cat", 0.65), ("lynx", 0.2)], fps=31.4) is frame
    changed = (frame != 200).any(-1)
    assert changed[-20:, :20].all() and changed[:15, -20:].all()
    assert not changed[40:200].any() and not changed[:15, :200].any()
    assert frame[-40:].max() > 240 and frame[changed].min() == 70  # white on a darkened ground
    again = torch.full_like(frame, 200)
    text.legend(again, [("tabby, tabby cat", 0.65), ("lynx", 0.2)], fps=31.4)
    assert torch.equal(frame, again)


@pytest.mark.parametrize("size", [(1, 1), (6, 300), (300, 6), (40, 40)])
def test_small_frames_cut_the_text_off(size):
    frame = torch.zeros(*size, 3, dtype=torch.uint8)
    text.legend(frame, [("a name that is much too long for this", float("nan"))] * 4, fps=1000, top=size[0] > 10)
    assert frame.shape == (*size, 3)
