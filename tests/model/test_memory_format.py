"""Which memory format a model is run in: the faster, once both have been tried, and never one that it cannot take."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import camfast
from camfast.model.memory_format import Formats, formats_of

IMAGE = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))


def laid_out(channels_last):
    batch = IMAGE.expand(4, -1, -1, -1)
    return batch.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("slow", [True, False])
def test_the_faster_format_is_taken(slow):
    """``slow`` is the format in which each pass sleeps."""
    formats, taken = Formats(None), []

    def run(images):
        last = images.is_contiguous(memory_format=torch.channels_last)
        taken.append(last)
        if last is slow:
            time.sleep(0.02)
        return images.sum()

    for _ in range(8):
        formats(run, laid_out)
    assert taken[:4].count(True) == 2 and taken[4:] == [not slow] * 4 and formats.settled is not slow


def test_batches_of_other_sizes_are_not_compared():
    formats = Formats(None)
    for _ in range(9):
        formats(torch.sum, lambda last: laid_out(last)[:2] if last else laid_out(last))
    assert formats.settled is None


def test_a_model_that_cannot_take_channels_last():
    formats, taken = Formats(None), []

    def run(images):
        taken.append(images.is_contiguous())
        return images.view(-1).sum()

    for _ in range(5):
        formats(run, laid_out)
    assert formats.settled is False and all(taken[1:])
    with pytest.raises(RuntimeError, match="view"):
        Formats(True)(lambda images: images.transpose(1, 2).view(-1), laid_out)


def test_where_there_is_nothing_to_choose():
    convolution, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    assert formats_of(linear, IMAGE).settled is False
    assert formats_of(convolution, IMAGE[0]).settled is False
    own = formats_of(convolution, IMAGE)
    assert own.settled is None and formats_of(convolution, IMAGE) is own
    assert formats_of(convolution, IMAGE[..., 1:]) is not own


@pytest.mark.parametrize("method", ["score_cam", "is_cam", "ss_cam"])
def test_maps_are_the_same_in_either_format(method, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    maps = []
    for settled in (True, False, None):
        monkeypatch.setattr("camfast.methods.score.formats_of", lambda *_, settled=settled, **__: Formats(settled))
        torch.manual_seed(1)
        options = {} if method == "score_cam" else {"samples": 2}
        maps.append(getattr(camfast, method)(model, IMAGE, 2, layers="2", batch_size=2, **options).heatmap)
    torch.testing.assert_close(maps[1], maps[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[2], maps[0], atol=1e-5, rtol=0)
