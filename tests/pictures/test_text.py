"""Text on frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import SmallNet

import camfast
from camfast.pictures import text


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


def test_legend_of_results():
    model = SmallNet().eval()
    result = camfast.grad_cam(model, torch.rand(2, 3, 48, 64))
    frame = result.overlay()[1]
    before = frame.clone()
    assert camfast.legend(frame, [("zebra", 0.5)]) is frame and not torch.equal(frame, before)
    assert torch.equal(frame[:24], before[:24])
    with camfast.Realtime(model, input_size=48) as engine:
        live = engine(torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8))
        before = live.overlay().clone()
        camfast.legend(live.overlay(), live.ranking(1), fps=24.6)
        changed = (live.overlay() != before).any(-1)
        assert changed[-5:, :20].any() and changed[:5, -5:].any() and not changed[25:40].any()


def test_legend_of_what_is_no_frame():
    with pytest.raises(TypeError, match="uint8 tensor, got torch.float32"):
        camfast.legend(torch.zeros(8, 8, 3), [])
    with pytest.raises(TypeError, match="uint8 tensor, got ndarray"):
        camfast.legend(np.zeros((8, 8, 3), np.uint8), [])
    with pytest.raises(ValueError, match=r"\[H, W, 3\], RGB, got \[2, 8, 8, 3\]"):
        camfast.legend(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), [])


def test_letters_that_pillows_own_font_lacks():
    """Two names of other letters must not look the same, as boxes do."""
    pictures = [text._rendered(name, 20) for name in ("Ω", "Ж")]
    assert pictures[0].shape != pictures[1].shape or not np.array_equal(*pictures)
