"""Which memory format a model is run in: the faster, found out once, and never one that it cannot take."""

from __future__ import annotations

import copy
import pickle
import time

import pytest
import torch
from torch import nn

import camfast
from camfast.model import memory_format
from camfast.model.memory_format import laid_out, takes_channels_last

IMAGE = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(memory_format, "_known", {})


class Sleepy(nn.Module):
    """Sleeps where it is given images of one format."""

    def __init__(self, slow):
        super().__init__()
        self.convolution, self.slow, self.given = nn.Conv2d(3, 4, 3), slow, []

    def forward(self, images):
        last = images.is_contiguous(memory_format=torch.channels_last)
        self.given.append((last, len(images)))
        time.sleep(0.02 if last is self.slow else 0)
        return self.convolution(images) * torch.rand(())


@pytest.mark.parametrize("slow", [True, False])
def test_the_faster_format_is_taken_and_remembered(slow):
    model = Sleepy(slow)
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    assert takes_channels_last(model, IMAGE, model, most=4) is not slow
    assert torch.equal(torch.rand(()), expected)  # the generator's state is kept
    assert model.given == [(True, 4), (False, 4)] * 2
    model.slow = not slow
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert takes_channels_last(again, IMAGE, again, most=4) is not slow and len(again.given) == 4


def test_a_model_that_cannot_take_channels_last():
    model = nn.Conv2d(3, 4, 3)
    assert takes_channels_last(model, IMAGE, lambda images: images.view(-1)) is False


def test_where_there_is_nothing_to_choose():
    def run(images):
        raise AssertionError("no pass is needed")

    convolution, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    assert takes_channels_last(linear, IMAGE, run) is False
    assert takes_channels_last(convolution, IMAGE[0], run) is False
    assert takes_channels_last(convolution, IMAGE.to("meta"), run) is False


def test_layouts():
    assert laid_out(IMAGE, True).is_contiguous(memory_format=torch.channels_last)
    assert laid_out(laid_out(IMAGE, True), False).is_contiguous()


@pytest.mark.parametrize("method", ["score_cam", "is_cam", "ss_cam"])
def test_maps_are_the_same_in_either_format_and_the_same_bits_each_time(method, monkeypatch):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    options = {} if method == "score_cam" else {"samples": 2}

    def explained(model):
        torch.manual_seed(1)
        return getattr(camfast, method)(model, IMAGE, 2, layers="2", batch_size=2, **options).heatmap

    first = explained(model)
    assert torch.equal(explained(model), first) and torch.equal(explained(copy.deepcopy(model)), first)
    for settled in (True, False):
        monkeypatch.setattr("camfast.methods.score.takes_channels_last", lambda *_, settled=settled, **__: settled)
        torch.testing.assert_close(explained(model), first, atol=1e-5, rtol=0)
