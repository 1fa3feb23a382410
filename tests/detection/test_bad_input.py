"""What goes wrong: one sentence, or the right result."""

from __future__ import annotations

import re

import detectors
import pytest
import torch
from test_detections import TWO, Colours, spots
from torch import nn

import camfast
import camfast.errors


class HalfWay(Colours):
    """The levels are cut from the scores, and the boxes from nothing."""

    def forward(self, images):
        table = super().forward(images)
        return torch.cat([table[:, :4], table[:, 4:].detach()], 1)


class InPlace(Colours):
    """The head overwrites the maps that it reads."""

    def forward(self, images):
        fine = self.fine(images)
        coarse = self.coarse(fine)
        tables = []
        for level, stride in ((fine, 8), (coarse, 16)):
            N, _, h, w = level.shape
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            centre = ((torch.stack([x, y]) + 0.5) * stride).expand(N, 2, h, w)
            boxes = torch.cat([centre, torch.full_like(centre, 3.0 * stride)], 1) + 1e-3 * level.sum(1, keepdim=True)
            level.mul_(1.0)
            tables.append(torch.cat([boxes, self.head(level).sigmoid_()], 1).flatten(2))
        return torch.cat(tables, 2)


@pytest.mark.parametrize("kind", [HalfWay])
def test_a_head_that_detaches(kind):
    with pytest.raises(ValueError, match="expected a detector whose scores depend on its maps.*its head may detach"):
        camfast.explain_detections(kind().eval(), spots(*TWO))
    with pytest.warns(camfast.errors.DoubtWarning, match="exactly zero at every level.*the head may detach its inputs"):
        camfast.explain_detections(kind().eval(), spots(*TWO), layers=["fine", "coarse"])


class Behind(Colours):
    """Its head detaches its levels, and has branches of its own for boxes and scores, as end-to-end branches do."""

    def __init__(self) -> None:
        super().__init__()
        self.scored = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
        self.boxed = nn.ModuleList(nn.Conv2d(3, 1, 1, bias=False) for _ in range(2))
        with torch.no_grad():
            for conv in self.scored:
                conv.weight.copy_(torch.eye(3)[:, :, None, None])

    def forward(self, images):
        fine = self.fine(images)
        tables = []
        for i, (level, stride) in enumerate(((fine, 8), (self.coarse(fine), 16))):
            level = level.detach()
            N, _, h, w = level.shape
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            centre = ((torch.stack([x, y]) + 0.5) * stride).expand(N, 2, h, w)
            boxes = torch.cat([centre, torch.full_like(centre, 3.0 * stride)], 1) + 1e-3 * self.boxed[i](level)
            tables.append(torch.cat([boxes, self.head(self.scored[i](level)).sigmoid()], 1).flatten(2))
        return torch.cat(tables, 2)


def test_a_head_that_detaches_is_explained_behind_that():
    result = camfast.explain_detections(Behind().eval(), spots(*TWO), min_score=0.5)
    assert result.layers == ["scored.0", "scored.1"] and set(result.names[0]) == {"red", "blue"}
    plain = camfast.explain_detections(Colours().eval(), spots(*TWO), min_score=0.5)
    assert torch.allclose(result.heatmaps[0], plain.heatmaps[0], atol=1e-5)


def test_a_pass_without_gradients_is_recorded_all_the_same():
    plain = camfast.explain_detections(Colours().eval(), spots(*TWO), layers=["fine", "coarse"])
    with torch.no_grad():
        assert torch.equal(camfast.explain_detections(Colours().eval(), spots(*TWO)).heatmaps[0], plain.heatmaps[0])


def test_a_head_that_changes_its_maps_in_place():
    """Where a gradient needs what was overwritten, as in training; levels that are named need less."""
    with pytest.raises(
        ValueError, match="InPlace, which changes a map in place that a gradient needs; name its levels"
    ):
        camfast.explain_detections(InPlace().eval(), spots(*TWO))
    plain = camfast.explain_detections(Colours().eval(), spots(*TWO))
    named = camfast.explain_detections(InPlace().eval(), spots(*TWO), layers=["fine", "coarse"])
    assert named.names == plain.names
    assert torch.allclose(named.heatmaps[0], plain.heatmaps[0], atol=1e-6)


def test_inference_mode():
    """A detector that ran in inference mode may keep anchors of it."""

    class Keeping(Colours):
        anchors = None

        def forward(self, images):
            table = super().forward(images)
            if self.anchors is None:
                self.anchors = torch.ones(table.shape[2])
            return table * self.anchors

    model = Keeping().eval()
    with torch.inference_mode():
        model(spots(*TWO))
    kept = model.anchors
    result = camfast.explain_detections(model, spots(*TWO))
    plain = camfast.explain_detections(Colours().eval(), spots(*TWO))
    assert torch.allclose(result.heatmaps[0], plain.heatmaps[0]) and model.anchors is kept
    with torch.inference_mode():
        assert torch.allclose(camfast.explain_detections(model, spots(*TWO)).heatmaps[0], plain.heatmaps[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    result = camfast.explain_detections(Colours().eval().to(dtype), spots(*TWO).to(dtype), min_score=0.5, overlap=0.1)
    assert set(result.names[0]) == {"blue", "red"}
    for name, heat in zip(result.names[0], result.heatmaps[0], strict=True):
        y, x = divmod(int(heat.argmax()), 96)
        assert spots(*TWO)[0, 0 if name == "red" else 2, y, x] > 0
        assert heat.dtype in (torch.float32, dtype) and 0.9 < heat.amax() <= 1
    assert result.overlay(0).any()


def test_thousands_of_candidates():
    result = camfast.explain_detections(Colours().eval(), torch.rand(1, 3, 512, 512), min_score=0.0, top=40)
    assert len(result.boxes[0]) == 40 and (result.scores[0].diff() <= 0).all()


def test_images_of_different_sizes_for_a_model_that_takes_one_tensor():
    images = [spots(*TWO)[0], spots(*TWO, size=(96, 96))[0]]
    with pytest.raises(ValueError, match=r"must have one size for this model, got \[3, 64, 96\], \[3, 96, 96\]"):
        camfast.explain_detections(Colours(), images)
    assert len(camfast.explain_detections(Colours(), images[:1] * 2)) == 2


def test_scripted_and_exported_models():
    model = Colours().eval()
    traced = torch.jit.trace(model, spots(*TWO), check_trace=False)
    with pytest.raises(TypeError, match="model must run in Python, got a ScriptModule"):
        camfast.explain_detections(traced, spots(*TWO))
    exported = torch.export.export(model, (spots(*TWO),)).module()
    with pytest.raises(TypeError, match="expected a model whose layers run as modules, got one graph"):
        camfast.explain_detections(exported, spots(*TWO), candidates=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "eigen_cam"}, "method must be one of .*'layer_cam'.* got 'eigen_cam'"),
        ({"explain": "box"}, "explain must be one of 'score', 'quality', 'mask', got 'box'"),
        ({"fuse": "mean"}, "fuse must be one of 'sum', 'max', got 'mean'"),
        ({"through": "all"}, "through must be one of 'head', 'levels', got 'all'"),
        ({"top": 0}, "top must be a number of boxes, 1 or more, or None, got 0"),
        ({"min_score": 25}, "min_score must be from 0 to 1, got 25"),
        ({"size": (1, 2, 3)}, "size must be None, 'map', an int or height and width"),
        ({"layers": "coars"}, "expected a layer of the model, got 'coars'; close to it: 'coarse'"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        camfast.explain_detections(Colours().eval(), spots(*TWO), **options)


def test_other_things_than_models_and_images():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        camfast.explain_detections("yolo26n", spots(*TWO))
    with pytest.raises(ValueError, match=re.escape("images must be [N, 3, H, W], a list of [3, H, W], or photographs")):
        camfast.explain_detections(Colours(), spots(*TWO)[0])
    classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TypeError, match="expected a detector's boxes and scores"):
        camfast.explain_detections(classifier, spots(*TWO))
    with pytest.raises(ValueError, match="does not tell how photographs are prepared; give prepare="):
        camfast.explain_detections(detectors.huggingface("Detr"), torch.zeros(96, 128, 3, dtype=torch.uint8))


def test_no_trace_is_left():
    model = Colours()
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    camfast.explain_detections(model, spots(*TWO))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert not hooks


def test_a_class_that_there_is_not():
    model = Colours().eval()
    model.names = {0: "red", 1: "green", 2: "blue"}
    for wanted, words in (
        (7, "from 0 to 2, or names, got 7"),
        (-1, "got -1"),
        ("gren", "one of 'red', 'green', 'blue', got 'gren'"),
    ):
        with pytest.raises(ValueError, match=words):
            camfast.explain_detections(model, spots(*TWO), classes=wanted)
