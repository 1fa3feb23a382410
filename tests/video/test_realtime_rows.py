"""Streams of networks whose scores have further axes than classes: detectors, segmentation, lists of boxes."""

from __future__ import annotations

import numpy as np
import pytest
import real_networks
import torch
from torch import nn

import camfast

NAMES = [f"thing {n}" for n in range(6)]


class Detector(nn.Module):
    """``[N, 4 + 6, places]``, as of YOLO: the rows of a box, then probabilities (or logits) of six classes in each place.

    Class 2 is sure of itself where the image is bright. It keeps what belongs to places of a number, as YOLO does.
    """

    def __init__(self, logits=False):
        super().__init__()
        self.conv, self.logits = nn.Conv2d(3, 10, 8, 8), logits
        self.size, self.grid = None, None
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[4 + 2] = 0.06
            self.conv.bias[:4], self.conv.bias[4:] = 50.0, torch.tensor([-1.0, -2, -6, -3, -4, -5])

    def forward(self, x):
        maps = self.conv(x)
        if self.size != maps.shape:
            self.size, self.grid = maps.shape, torch.zeros(maps.shape[2:].numel())
        rows = maps.flatten(2) + self.grid
        return rows if self.logits else torch.cat((rows[:, :4], rows[:, 4:].sigmoid()), 1)


def frame(bright=True):
    picture = np.zeros((64, 64, 3), np.uint8)
    if bright:
        picture[8:24, 40:56] = 255
    return picture


@pytest.fixture(params=[False, True], ids=["probabilities", "logits"])
def engine(request):
    model = Detector(request.param).eval()
    return camfast.Realtime(model, layers="conv", input_size=64, mean=(0,) * 3, std=(1,) * 3, class_names=NAMES)


def test_a_detector_is_named_by_its_classes(engine):
    """Not by the rows of its boxes, and with the score of the best box, not a softmax over the classes."""
    result = engine(frame())
    (name, score), *others = result.ranking(6)
    assert name == "thing 2" and score > 0.99 and result.labels() == [(name, score)]
    assert others[0][0] == "thing 0" and others[0][1] == pytest.approx(1 / (1 + np.e), abs=1e-3)
    assert result.targets.item() == 2 and not result.exclusive
    peak = np.unravel_index(int(result.heatmap.argmax()), tuple(result.heatmap.shape))
    assert peak[0] in (1, 2) and peak[1] in (5, 6)
    assert engine(frame(False)).ranking(1)[0][0] == "thing 0"


@pytest.mark.parametrize("target", ["thing 2", 2])
def test_a_class_of_a_detector_is_that_class(engine, target):
    """Its number counts classes, not rows: 2 was once the third row of the box."""
    engine.targets = target
    result = engine(frame())
    assert result.targets.item() == 2 and result.labels()[0][0] == "thing 2" and result.heatmap.max() > 0.9
    engine.targets = camfast.TopK(3)
    assert [name for name, _ in engine(frame()).labels()] == ["thing 2", "thing 0", "thing 1"]


def test_what_a_module_keeps_for_a_size_goes_back_with_the_size(engine):
    """A detector that was last run on images of another size runs on them again afterwards."""
    model = engine._original
    before = model(torch.zeros(1, 3, 32, 96)).shape, model.size, model.grid
    for _ in range(3):
        engine(frame())
    assert model.size == before[1] and model.grid is before[2]
    assert model(torch.zeros(1, 3, 32, 96)).shape == before[0]


def test_segmentation_is_ranked_by_shares():
    class Segments(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 8, 8)

        def forward(self, x):
            return nn.functional.interpolate(20 * self.conv(x), x.shape[2:])

    engine = camfast.Realtime(Segments().eval(), layers="conv", input_size=64, class_names=NAMES[:3])
    assert sum(score for _, score in engine(frame()).ranking()) == pytest.approx(1, abs=1e-4)


class Boxes(nn.Module):
    """As torchvision's detectors: a list of dicts, with as many boxes as there are."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x):
        best = self.conv(x).flatten(1).sigmoid().topk(3).values
        return [{"scores": row, "labels": torch.arange(3), "boxes": torch.zeros(3, 4)} for row in best]


def test_a_list_of_boxes_has_no_classes():
    engine = camfast.Realtime(Boxes().eval(), layers="conv", input_size=64, class_names=NAMES)
    with pytest.raises(ValueError, match="a list of boxes.*callable"):
        engine(frame())
    engine.targets = camfast.targets.Field("scores", lambda scores: scores.sum())
    result = engine(frame())
    assert result.ranking() == [] and len(result.labels()) == 1 and result.heatmap.ndim == 2


def test_classes_that_nothing_tells_are_not_ranked():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 30, 8, 8)

        def forward(self, x):
            return self.conv(x).mean((2, 3)).reshape(len(x), 5, 6)

    engine = camfast.Realtime(Odd().eval(), layers="conv", input_size=64, targets=lambda scores: scores[2, 3])
    assert engine(frame()).ranking() == []


@pytest.mark.real
def test_yolo(tmp_path, monkeypatch):
    """YOLO26, whose head was last run on other sizes, names what is in the photograph, and the bus is where the bus is."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # its library writes settings where it is imported
    model, photo = real_networks.yolo26()
    names = list(model.names.values())
    engine = camfast.Realtime(model, input_size=(320, 256), mean=(0,) * 3, std=(1,) * 3, class_names=names)
    assert {name for name, score in engine(photo).ranking() if score > 0.7} == {"person", "bus"}
    engine.targets, engine.layers, engine.method = "bus", "model.22", "layer_cam"
    result = engine(photo)
    assert result.labels()[0][0] == "bus" and result.labels()[0][1] > 0.7
    height, width = result.heatmap.shape
    row = int(result.heatmap.argmax()) // width
    assert 0.2 < (row + 0.5) / height < 0.72  # of the photograph's height, where the bus is
